"""A bucket of an object store: whole files, as of a collection's segments."""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from imgsim.errors import CollectionDamaged, CollectionError, StoreError
from imgsim.files import replacing, writing

URL_NAME = "segments.url"
"""The file in a collection's folder that says in which bucket its segments are."""

_OWNER = "imgsim.owner"  # the file in a bucket that says whose it is
_BLOCK = 4 << 20
_DETAILS = re.compile(r"(\. |; Details| \(Request ID).*")
_HARMLESS = {"region", "scheme", "endpoint_override", "enable_tls"}
_FORM = "must be like s3://bucket/name"


@dataclass(frozen=True)
class Bucket:
    """The whole files below ``url``, as Arrow reads it, of the collection with the id ``owner``.

    Without one, they are those of no collection.
    """

    url: str
    owner: str = ""

    def __str__(self) -> str:
        return self.url.partition("?")[0].rstrip("/")

    @classmethod
    def at(cls, url: str, owner: str = "") -> "Bucket":
        """Return what is at an address; raise ValueError for what is none, or has secrets in it."""
        _refuse_secrets(url)
        bucket = cls(url, owner)
        if not bucket._files[1]:
            raise ValueError(_FORM)
        return bucket

    @classmethod
    def noted(cls, folder: Path) -> "Bucket | None":
        """Return the bucket of the collection in a folder; None if it has none."""
        try:
            url, owner = (folder / URL_NAME).read_text(encoding="utf-8").split()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise CollectionError(folder, f"{URL_NAME} does not say where segments are") from error
        return cls(url, owner)

    @classmethod
    def claimed(cls, url: str, folder: Path) -> "Bucket":
        """Make what is empty the bucket of the collection in a folder.

        Raises :class:`CollectionError` for what is no address, and :class:`StoreError` if there are
        files, which would be swept, or if nothing can be written.
        """
        try:
            bucket = cls.at(url, secrets.token_hex(16))
        except ValueError as error:
            raise CollectionError(folder, f"the address of its segments: {error}") from error
        if bucket._listed():
            raise StoreError(f"{bucket}: is not empty; name another for a new collection")
        bucket.create()
        with bucket._asking(_OWNER):
            system, prefix = bucket._files
            with system.open_output_stream(f"{prefix}/{_OWNER}") as file:
                file.write(bucket.owner.encode())
        with replacing(folder / URL_NAME) as temporary:
            temporary.write_text(f"{url}\n{bucket.owner}\n")
        return bucket

    def create(self) -> None:
        """Make the folder, where the object store has such; raise :class:`StoreError`.

        On this machine, the one above must be there: it may be a mount.
        """
        system, prefix = self._files
        try:
            with self._asking(""):
                system.create_dir(prefix, recursive=not self._is_local)
        except FileNotFoundError as error:
            raise StoreError(f"{self}: there is no folder {Path(prefix).parent}") from error

    def release(self) -> None:
        """Let the next have it, if nothing has come into it."""
        if not self.names():
            self.remove(_OWNER)

    def names(self) -> set[str]:
        """Return the names of all files, or raise :class:`StoreError` if they are another's."""
        system, prefix = self._files
        with self._asking(_OWNER):
            try:
                owner = system.open_input_stream(f"{prefix}/{_OWNER}").read().decode()
            except FileNotFoundError:
                owner = ""
        if owner != self.owner:
            whose = "another collection" if self.owner else "a collection"
            raise StoreError(f"{self}: belongs to {whose}; nothing is changed")
        return self._listed() - {_OWNER}

    def get(self, target: Path, sha256: str = "") -> None:
        """Copy the file that is called as ``target`` to there; do nothing if there is none.

        With its ``sha256``, a file that has another raises :class:`CollectionDamaged`.
        """
        digest, blocks = hashlib.sha256(), self._blocks(target.name)
        first = next(blocks, None)
        if first is None:
            return
        with writing(target), replacing(target) as temporary:
            with temporary.open("wb") as file:
                for block in (first, *blocks):
                    digest.update(block)
                    file.write(block)
            if sha256 not in {"", digest.hexdigest()}:
                expected, found = f"sha256 {sha256}", f"sha256 {digest.hexdigest()}"
                raise CollectionDamaged(Path(f"{self}/{target.name}"), expected, found)

    def put(self, path: Path) -> None:
        """Copy a file to here; it is here wholly or not at all."""
        system, prefix = self._files
        target = f"{prefix}/{path.name}"
        if self._is_local:
            with writing(Path(target)), replacing(Path(target)) as temporary:
                temporary.write_bytes(path.read_bytes())
            return
        is_whole = False
        try:
            with (
                self._asking(path.name),
                path.open("rb") as file,
                system.open_output_stream(target) as stream,
            ):
                while block := file.read(_BLOCK):
                    stream.write(block)
            is_whole = True
        finally:
            if not is_whole:  # to close a stream is to store what was written
                with suppress(StoreError):
                    self.remove(path.name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is here."""
        system, prefix = self._files
        with self._asking(name), suppress(FileNotFoundError):
            system.delete_file(f"{prefix}/{name}")

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, or where the object store has no such thing, a copy of it."""
        system, prefix = self._files
        with self._asking(name):
            if self._is_local:
                system.move(f"{prefix}/{name}", f"{prefix}/{new}")
            else:
                system.copy_file(f"{prefix}/{name}", f"{prefix}/{new}")
                system.delete_file(f"{prefix}/{name}")

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Yield a file as Arrow reads it."""
        system, prefix = self._files
        with self._asking(name), system.open_input_file(f"{prefix}/{name}") as file:
            yield file

    @cached_property
    def _files(self) -> tuple[Any, str]:
        """Return Arrow's file system, and where in it the files are.

        Raises ValueError for what is no address.
        """
        from pyarrow.fs import FileSystem  # noqa: PLC0415 - a tenth of a second that few need

        with self._asking(""):
            system, prefix = FileSystem.from_uri(self.url)
        return system, prefix.rstrip("/")

    @property
    def _is_local(self) -> bool:
        return self.url.startswith("file:")

    def _listed(self) -> set[str]:
        from pyarrow.fs import FileSelector, FileType  # noqa: PLC0415 - as above

        system, prefix = self._files
        with self._asking(""):
            found = system.get_file_info(FileSelector(prefix, allow_not_found=True))
        return {each.base_name for each in found if each.type == FileType.File}

    def _blocks(self, name: str) -> Iterator[bytes]:
        """Yield the blocks of a file, one at least; nothing if there is none."""
        system, prefix = self._files
        with (
            self._asking(name),
            suppress(FileNotFoundError),
            system.open_input_stream(f"{prefix}/{name}") as source,
        ):
            yield source.read(_BLOCK)
            while block := source.read(_BLOCK):
                yield block

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Raise :class:`StoreError` for what the object store refuses, but FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            said = _DETAILS.sub("", str(error).splitlines()[0])
            raise StoreError(f"{self}/{name}: {said}") from error


def _refuse_secrets(url: str) -> None:
    """Raise ValueError for an address that has more in it than where files are."""
    if "://" not in url:
        raise ValueError(_FORM)
    parts = urlsplit(url)
    is_named = parts.password is not None or (parts.scheme == "s3" and "@" in parts.netloc)
    more = sorted({name for name, _ in parse_qsl(parts.query, True)} - _HARMLESS)
    if is_named or more:
        named = f" ({', '.join(more)})" if more else ""
        raise ValueError(f"keep credentials out of it: the environment has them{named}")
