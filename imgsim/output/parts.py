"""A folder of Parquet files: an export that was interrupted goes on with those that are complete.

``neighbours-<key>-<number>.parquet``, where the key is 16 hexadecimal digits. Until all are there,
the names begin with a dot, which tools that read folders of Parquet pass over.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from imgsim.errors import StoreError
from imgsim.files import replacing, sync_directory, writing
from imgsim.output.export import write_parquet
from imgsim.output.listing import neighbour_rows
from imgsim.results import ImageNeighbours

_NAME = re.compile(r"\.?neighbours-([0-9a-f]{16})-\d{5,}\.parquet")


@dataclass(frozen=True)
class Parts:
    """The files of one export, which ``key`` stands for, in ``folder``."""

    folder: Path
    key: str

    def write(self, parts: Iterable[Callable[[], Iterable[ImageNeighbours]]]) -> int:
        """Write lists of neighbours, each part to a file, and return how many rows all have.

        Lists whose file is there are not asked for. When all are there, they take the place of
        those with other keys. Raises :class:`StoreError` if a file cannot be written, or one is no
        Parquet.
        """
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            rows = [self._written(number, lists) for number, lists in enumerate(parts)]
            for name in os.listdir(self.folder):
                found = _NAME.fullmatch(name)
                if found and found[1] != self.key:
                    (self.folder / name).unlink(missing_ok=True)
            for number in range(len(rows)):
                if self._hidden(number).exists():
                    self._hidden(number).replace(self._shown(number))
            sync_directory(self.folder)
        return sum(rows)

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
        except pa.ArrowInvalid as error:
            raise StoreError(f"{path}: is not Parquet; remove it and export again") from error
        return rows

    def _shown(self, number: int) -> Path:
        return self.folder / f"neighbours-{self.key}-{number:05}.parquet"

    def _hidden(self, number: int) -> Path:
        return self.folder / f".{self._shown(number).name}"
