"""Where the Parquet files of an export are: in a folder, or in a bucket of an object store."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import BinaryIO, Protocol

from imgsim.bucket import Bucket
from imgsim.errors import OutputError, StoreError
from imgsim.files import replacing, sync_directory, writing
from imgsim.output.target import NEIGHBOURS

_LOCK = ".neighbours.lock"
_TAIL = 1 << 16  # bytes, in which Parquet mostly says what is before


class PartFiles(Protocol):
    """Files by name, each of which is there wholly or not at all."""

    def alone(self) -> AbstractContextManager[None]:
        """Make the place, if need be, and keep others from writing to it, as far as it can.

        Within it, what the operating system refuses raises :class:`StoreError`.
        """

    def names(self) -> set[str]:
        """Return the names of all files."""

    def put(self, name: str) -> AbstractContextManager[Path]:
        """Yield where to write what is the file when the block succeeds."""

    def rows(self, name: str) -> int:
        """Return how many rows a Parquet file has; raise :class:`StoreError` if it is none."""

    def rename(self, name: str, new: str) -> None:
        """Give a file another name."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove some files, for good before anything else is done."""


@dataclass(frozen=True)
class FolderFiles:
    """Files in a folder of this machine."""

    folder: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other exports out of the folder, where its file system gives locks."""
        mode = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            sync_directory(self.folder.parent)
            descriptor = os.open(self.folder / _LOCK, mode, 0o666)
            try:
                self._lock(descriptor)
                yield
                sync_directory(self.folder)
            finally:
                os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{self.folder}: another export is writing to it") from error
        except OSError:  # a part that somebody else removes meanwhile is missed in the end
            pass

    def names(self) -> set[str]:
        """Return the names of all files."""
        return set(os.listdir(self.folder))

    def put(self, name: str) -> AbstractContextManager[Path]:
        """Yield where to write what is the file when the block succeeds."""
        return replacing(self.folder / name)

    def rows(self, name: str) -> int:
        """Return how many rows a Parquet file has; raise :class:`StoreError` if it is none."""
        with (self.folder / name).open("rb") as file:
            return _row_count(file, f"{self.folder}/{name}")

    def rename(self, name: str, new: str) -> None:
        """Give a file another name."""
        (self.folder / name).replace(self.folder / new)

    def remove(self, names: Iterable[str]) -> None:
        """Remove some files, for good before anything else is done."""
        for name in names:
            (self.folder / name).unlink()
        sync_directory(self.folder)


@dataclass(frozen=True)
class BucketFiles:
    """Files in a bucket, which nothing keeps others from."""

    bucket: Bucket

    @classmethod
    def at(cls, url: str) -> "BucketFiles":
        """Return the files at an address; raise :class:`OutputError` for what is none."""
        try:
            bucket = Bucket.at(url)
        except ValueError as error:
            raise OutputError(f"the address to write to: {error}") from error
        if str(bucket).endswith(NEIGHBOURS):
            raise OutputError(f"{bucket}: several files go below an address; leave out the suffix")
        return cls(bucket)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the place; raise :class:`StoreError` if a collection has its segments there."""
        with writing(str(self.bucket)):
            self.bucket.names()
            self.bucket.create()
            yield

    def names(self) -> set[str]:
        """Return the names of all files."""
        return self.bucket.names()

    @contextmanager
    def put(self, name: str) -> Iterator[Path]:
        """Yield where to write what is the file when the block succeeds.

        Until it is there wholly, it has a name of its own: another may write the same.
        """
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / f".{name}.{token_hex(4)}.tmp"
            with writing(path):
                yield path
            self.bucket.put(path)
        try:
            self.bucket.rename(path.name, name)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.bucket}/{name}: another export has removed it; export again"
            ) from error

    def rows(self, name: str) -> int:
        """Return how many rows a Parquet file has; raise :class:`StoreError` if it is none."""
        with self.bucket.opened(name) as file:
            return _row_count(file, f"{self.bucket}/{name}")

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, by copying it."""
        self.bucket.rename(name, new)

    def remove(self, names: Iterable[str]) -> None:
        """Remove some files."""
        for name in names:
            self.bucket.remove(name)


def _row_count(file: BinaryIO, shown: str) -> int:
    import pyarrow as pa  # noqa: PLC0415 - heavy
    import pyarrow.parquet as pq  # noqa: PLC0415

    size, tail, needed = file.seek(0, os.SEEK_END), b"", _TAIL
    while len(tail) < min(size, needed):
        file.seek(-min(size, needed), os.SEEK_END)
        tail = file.read()
        needed = 8 + int.from_bytes(tail[-8:-4], "little")  # what is before them says what is where
    try:  # it is read; what fails now is the file's fault
        rows: int = pq.read_metadata(pa.BufferReader(tail)).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{shown}: is not Parquet; remove it and export again") from error
    return rows
