"""Parquet files with lists of neighbours: an interrupted export goes on with those that are there.

``neighbours-<key>-<number>.parquet``, where the key is 16 hexadecimal digits. Until all are there,
the names begin with a dot, which Arrow passes over where it reads a folder.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from imgsim.errors import StoreError
from imgsim.output.export import write_parquet
from imgsim.output.listing import neighbour_rows
from imgsim.output.part_files import PartFiles
from imgsim.results import ImageNeighbours

_NAME = re.compile(r"\.?neighbours-([0-9a-f]{16})-\d{5,}\.parquet")
_UNFINISHED = re.compile(rf"\.{_NAME.pattern}\.[0-9a-f]{{8}}\.tmp")
_P = TypeVar("_P")


@dataclass(frozen=True)
class Parts:
    """The files of one export, which ``key`` stands for."""

    files: PartFiles
    key: str

    def complete(
        self, parts: Iterable[_P], put: Callable[[Iterator[tuple[int, _P]]], Iterable[int]]
    ) -> int:
        """Let ``put`` write the parts that are not there, and return how many rows all have.

        It gets their numbers and themselves, calls :meth:`put` for each, in this process or
        another, and yields the numbers of those that are there then. When all are, files with other
        keys go. Raises :class:`StoreError` if a file cannot be written or is no Parquet, and
        :class:`OutputError` while another export writes to the same folder.
        """
        rows = dict[int, int]()

        def missing() -> Iterator[tuple[int, _P]]:
            for number, part in enumerate(parts):
                found = there & {self._hidden(number), self._shown(number)}
                if found:
                    rows[number] = self.files.rows(min(found))
                else:
                    yield number, part

        with self.files.alone():
            self._remove(lambda name: bool(_UNFINISHED.fullmatch(name)))
            there = self.files.names()
            for number in put(missing()):
                rows[number] = self._rows_of_new(number)
            self._show(rows)
        return sum(rows.values())

    def put(self, number: int, lists: Iterable[ImageNeighbours]) -> None:
        """Write lists of neighbours as one part."""
        with self.files.put(self._hidden(number)) as path:
            write_parquet(path, (row for each in lists for row in neighbour_rows(each)))

    def _rows_of_new(self, number: int) -> int:
        try:
            return self.files.rows(self._hidden(number))
        except FileNotFoundError as error:
            raise StoreError(
                f"{self._hidden(number)}: was written, and is not there; do all machines have the "
                "same folder?"
            ) from error

    def _show(self, numbers: Iterable[int]) -> None:
        """Remove the files with other keys, and let those of all parts be seen."""
        there = self.files.names()
        for number in numbers:
            if not there & {self._hidden(number), self._shown(number)}:
                raise StoreError(f"{self._hidden(number)}: was removed meanwhile; export again")
        self._remove(self._is_of_another)
        for number in numbers:
            if self._hidden(number) in there:
                self.files.rename(self._hidden(number), self._shown(number))

    def _remove(self, is_meant: Callable[[str], bool]) -> None:
        for name in filter(is_meant, self.files.names()):
            self.files.remove(name)

    def _is_of_another(self, name: str) -> bool:
        found = _NAME.fullmatch(name)
        return found is not None and found[1] != self.key

    def _shown(self, number: int) -> str:
        return f"neighbours-{self.key}-{number:05}.parquet"

    def _hidden(self, number: int) -> str:
        return f".{self._shown(number)}"
