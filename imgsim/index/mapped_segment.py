"""One segment, mapped: embeddings and the ids of their images, verified when they are read."""

from collections.abc import Iterator
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import CollectionDamaged
from imgsim.files import sha256_file
from imgsim.index.checksum import row_sums, weights
from imgsim.index.distance import Block
from imgsim.index.segment_file import ROW, TABLE_END, MappedEmbeddings


class StoredRows(NamedTuple):
    """All rows of a segment, not verified: ``embeddings`` (n, d) float32, ``table`` (n,) of ROW.

    ``words`` (n, d) are the bits of the embeddings, and ``weights`` (d + 2,) those of checksums.
    """

    embeddings: NDArray[np.float32]
    table: NDArray[np.void]
    words: NDArray[np.uint32]
    weights: NDArray[np.uint32]


class Table(Protocol):
    """Ids and checksums of a segment's rows: of ROW."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Return some rows (n, 1)."""

    def span(self, start: int, stop: int) -> NDArray[np.void]:
        """Return the rows (n, 1) from ``start`` to ``stop``, or to the last."""

    def mapped(self) -> NDArray[Any]:
        """Return a view of all of them (rows, 1), which may not be aligned."""


class TableInMemory:
    """A table in memory, in place of a file that is missing."""

    def __init__(self, table: NDArray[np.void]) -> None:
        self._table = table[:, np.newaxis]

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """Return some rows (n, 1)."""
        return self._table[rows]

    def span(self, start: int, stop: int) -> NDArray[np.void]:
        """Return the rows (n, 1) from ``start`` to ``stop``, or to the last."""
        return self._table[start:stop]

    def mapped(self) -> NDArray[Any]:
        """Return all of them (rows, 1)."""
        return self._table


def table_of(ids: NDArray[np.int64], embeddings: NDArray[np.float32]) -> NDArray[np.void]:
    """Return the table (n,) of rows with these ids (n,) and embeddings (n, d) float32."""
    table = np.empty(len(ids), ROW)
    table["id"], table["sum"] = ids, row_sums(ids, embeddings)
    return table


class MappedSegment:
    """The rows of a segment; ``sha256`` is that of the file of embeddings.

    Whatever gives rows raises :class:`CollectionDamaged` if they are not those that were stored.
    """

    def __init__(self, embeddings: MappedEmbeddings, table: Table, sha256: str) -> None:
        self._embeddings = embeddings
        self._table = table
        self._sha256 = sha256
        self._is_sound = False
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._embeddings)

    def take(self, rows: NDArray[np.int64]) -> Block:
        """Return copies of the ids and embeddings of some rows, in the order given."""
        return self._verified(rows, self._table.take(rows), self._embeddings.take(rows))

    def again(self, rows: NDArray[np.int64]) -> Block:
        """Do what :meth:`take` does with rows that a scan has verified."""
        if "stored" in vars(self):  # it has mapped them, too
            return self.stored.table["id"][rows], self.stored.embeddings[rows]
        return self._table.take(rows)["id"][:, 0], self._embeddings.take(rows)

    def span(self, start: int, stop: int) -> Block:
        """Return ids and embeddings of the rows from ``start`` to ``stop``, or to the last."""
        rows = np.arange(start, min(stop, len(self)))
        return self._verified(
            rows, self._table.span(start, stop), self._embeddings.span(start, stop)
        )

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all rows, a few megabytes at a time."""
        for start, embeddings in self._embeddings.blocks():
            rows = np.arange(start, start + len(embeddings))
            yield self._verified(rows, self._table.span(start, start + len(rows)), embeddings)

    def verified(self) -> NDArray[np.float32]:
        """Return the embeddings (rows, d), mapped and perhaps not aligned, after a look at all."""
        with self._lock:
            if not self._is_sound:
                for _ in self.blocks():
                    pass
                self._is_sound = True
        return self._embeddings.mapped()

    @cached_property
    def stored(self) -> StoredRows:
        """Return all rows, mapped and perhaps not aligned, which whoever reads one verifies."""
        embeddings = self._embeddings.mapped()
        sums = weights(self._embeddings.dim + 2)
        return StoredRows(embeddings, self._table.mapped()[:, 0], embeddings.view("<u4"), sums)

    def damage(self, row: int) -> CollectionDamaged:
        """Return what to raise for a row whose checksum is another."""
        path = self._embeddings.path
        if sha256_file(path) == self._sha256:
            path = path.with_suffix(TABLE_END)
        return CollectionDamaged(path, f"row {row} as it was stored", "other bytes")

    def _verified(
        self, rows: NDArray[np.int64], table: NDArray[np.void], embeddings: NDArray[np.float32]
    ) -> Block:
        ids: NDArray[np.int64] = table["id"][:, 0]
        wrong = np.flatnonzero(row_sums(ids, embeddings) != table["sum"][:, 0])
        if len(wrong):
            raise self.damage(int(rows[wrong[0]]))
        return ids, embeddings
