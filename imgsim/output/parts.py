"""Parquet files with lists of neighbours: an interrupted export goes on with those that are there.

``neighbours-<key>-<number>.parquet``, where the key is 16 hexadecimal digits. Until all are there,
the names begin with a dot, which Arrow passes over where it reads a folder.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from imgsim.errors import StoreError
from imgsim.output.export import write_parquet
from imgsim.output.listing import neighbour_rows
from imgsim.output.part_files import PartFiles
from imgsim.results import ImageNeighbours

_NAME = re.compile(
    r"\.{0,3}neighbours-([0-9a-f]{16})-\d{5,}\.parquet((?:\.[0-9a-f]{8}\.tmp){0,2})"
)  # with what a killed one has left, which ends in .tmp
_P = TypeVar("_P")


@dataclass(frozen=True)
class Parts:
    """The files of one export, which ``key`` stands for."""

    files: PartFiles
    key: str

    def complete(
        self, parts: Iterable[_P], write: Callable[[Iterator[tuple[int, _P]]], Iterable[int]]
    ) -> int:
        """Let ``write`` write the parts that are not there, and return how many rows all have.

        It gets their numbers and themselves, calls :meth:`put` for each, in this process or
        another, and yields the numbers of those that are there then. When all are, files with other
        keys go. Raises :class:`StoreError` if a file cannot be written or is no Parquet, and
        :class:`OutputError` while another export writes to the same folder.
        """
        rows = dict[int, int]()

        def missing() -> Iterator[tuple[int, _P]]:
            for number, part in enumerate(parts):
                if there & {*self._names(number)}:
                    rows[number] = self._rows(number)
                else:
                    yield number, part

        with self.files.alone():
            there = self.files.names()
            for number in write(missing()):
                rows[number] = self._rows(number)
            self._show(rows)
        return sum(rows.values())

    def put(self, number: int, lists: Iterable[ImageNeighbours]) -> None:
        """Write lists of neighbours as one part."""
        hidden, _ = self._names(number)
        with self.files.put(hidden) as path:
            write_parquet(path, (row for each in lists for row in neighbour_rows(each)))

    def _rows(self, number: int) -> int:
        for name in self._names(number):  # the same export elsewhere may have made it seen
            with suppress(FileNotFoundError):
                return self.files.rows(name)
        raise StoreError(f"{name}: is not there any more, or not on all machines; export again")

    def _show(self, numbers: Iterable[int]) -> None:
        """Remove what other exports have left, and let the files of all parts be seen."""
        names, there = [*map(self._names, numbers)], self.files.names()
        for hidden, shown in names:
            if not there & {hidden, shown}:
                raise StoreError(f"{shown}: was removed meanwhile; export again")
        self.files.remove(filter(self._is_of_another, there))
        for hidden, shown in names:
            if hidden in there:
                self.files.rename(hidden, shown)

    def _is_of_another(self, name: str) -> bool:
        found = _NAME.fullmatch(name)
        return found is not None and (found[1] != self.key or found[2] != "")

    def _names(self, number: int) -> tuple[str, str]:
        """Return how a part is called until all are there, and then."""
        shown = f"neighbours-{self.key}-{number:05}.parquet"
        return f".{shown}", shown
