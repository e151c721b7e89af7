"""A folder of Parquet files: an export that was interrupted goes on with those that are complete.

``neighbours-<key>-<number>.parquet``, where the key is 16 hexadecimal digits. Until all are there,
the names begin with a dot, which Arrow passes over where it reads a folder.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imgsim.errors import OutputError, StoreError
from imgsim.files import replacing, sync_directory, writing
from imgsim.output.export import write_parquet
from imgsim.output.listing import neighbour_rows
from imgsim.results import ImageNeighbours

_NAME = re.compile(r"\.?neighbours-([0-9a-f]{16})-\d{5,}\.parquet")
_LOCK = ".neighbours.lock"
_UNFINISHED = re.compile(rf"\.{_NAME.pattern}\.[0-9a-f]{{8}}\.tmp")


@dataclass(frozen=True)
class Parts:
    """The files of one export, which ``key`` stands for, in ``folder``."""

    folder: Path
    key: str

    def write(self, parts: Iterable[Callable[[], Iterable[ImageNeighbours]]]) -> int:
        """Write lists of neighbours, each part to a file, and return how many rows all have.

        Lists whose file is there are not asked for. When all are there, those with other keys go.
        Raises :class:`StoreError` if a file cannot be written or is no Parquet, and
        :class:`OutputError` while another export writes to the folder.
        """
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            sync_directory(self.folder.parent)
            with self._alone():
                self._remove(lambda name: bool(_UNFINISHED.fullmatch(name)))
                rows = [self._written(number, lists) for number, lists in enumerate(parts)]
                hidden = [n for n in range(len(rows)) if not self._shown(n).exists()]
                for number in hidden:
                    self._hidden(number).stat()  # or somebody has removed it
                self._remove(self._is_of_another)
                for number in hidden:
                    self._hidden(number).replace(self._shown(number))
                sync_directory(self.folder)
        return sum(rows)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other exports out of the folder, where its file system gives locks."""
        mode = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.folder / _LOCK, mode, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise OutputError(f"{self.folder}: another export is writing to it") from error
        except OSError:  # a part that somebody else removes meanwhile is missed in the end
            pass
        try:
            yield
        finally:
            os.close(descriptor)

    def _written(self, number: int, lists: Callable[[], Iterable[ImageNeighbours]]) -> int:
        """Write a part unless it is there, and return how many rows it has."""
        import pyarrow as pa  # noqa: PLC0415 - heavy
        import pyarrow.parquet as pq  # noqa: PLC0415

        path = self._shown(number) if self._shown(number).exists() else self._hidden(number)
        if not path.exists():
            with replacing(path) as temporary:
                write_parquet(temporary, (row for each in lists() for row in neighbour_rows(each)))
        try:
            rows: int = pq.read_metadata(path).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the system's, and not Arrow's
            raise StoreError(f"{path}: is not Parquet; remove it and export again") from error
        return rows

    def _remove(self, is_meant: Callable[[str], bool]) -> None:
        for name in filter(is_meant, os.listdir(self.folder)):
            (self.folder / name).unlink()
        sync_directory(self.folder)

    def _is_of_another(self, name: str) -> bool:
        found = _NAME.fullmatch(name)
        return found is not None and found[1] != self.key

    def _shown(self, number: int) -> Path:
        return self.folder / f"neighbours-{self.key}-{number:05}.parquet"

    def _hidden(self, number: int) -> Path:
        return self.folder / f".{self._shown(number).name}"
