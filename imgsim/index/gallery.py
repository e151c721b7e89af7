"""The embeddings of all images at one instant."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imgsim.index.distance import Block, checked_queries
from imgsim.index.projection import Projection
from imgsim.index.scan_numpy import Backend
from imgsim.index.search import Answer, Source
from imgsim.index.searcher import SegmentSearcher
from imgsim.records import unpacked


class Finder(Protocol):
    """Finds the embeddings of images, wherever they are searched."""

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""


class Searchable(Finder, Protocol):
    """The embeddings (n, dim) of images, wherever they are searched."""

    dim: int

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Release what is open."""

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces."""


class Gallery:
    """The embeddings (n, dim) of images, or of those that a filter admits."""

    def __init__(
        self,
        sources: Sequence[Source],
        projection: Projection | None,
        dim: int,
        radius: float,
        choose: Callable[[int], Backend],
    ) -> None:
        self._sources = sources
        self._searcher = SegmentSearcher(sources, projection, dim, choose)
        self._radius = radius
        self.dim = dim

    def __len__(self) -> int:
        return sum(
            len(source) - int(np.bitwise_count(source.excluded).sum()) for source in self._sources
        )

    def close(self) -> None:
        """End the threads."""
        self._searcher.close()

    def search(
        self,
        queries: NDArray[np.float32],
        k: int | None,
        limits: NDArray[np.float64] | None = None,
    ) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all.

        With ``limits`` (q,), only those at a distance of at most its limit count for a query.
        """
        within = self._radius if limits is None else np.minimum(limits, self._radius)
        return self._searcher.search(checked_queries(queries, self.dim), k, within)

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces."""
        for source in self._sources:
            yield from source.blocks()

    def pick(self, ids: NDArray[np.int64]) -> Block:
        """Return those of some ids (n,) whose images count, and their embeddings."""
        found = [(np.empty(0, np.int64), np.empty((0, self.dim), np.float32))]
        for source, (known, rows) in zip(self._sources, self._by_id, strict=True):
            places = np.searchsorted(known, ids).clip(max=max(0, len(known) - 1))
            mine = places[known[places] == ids] if len(known) else places[:0]
            if len(mine):
                found.append(source.segment.take(rows[mine]))
        chosen, embeddings = map(np.concatenate, zip(*found, strict=True))
        return chosen, embeddings

    @cached_property
    def _by_id(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return for each source the ids of the rows that count, in order, and those rows."""
        found = []
        for source in self._sources:
            rows = np.flatnonzero(~unpacked(source.excluded, len(source)))
            ids = source.segment.stored.table["id"][rows]
            order = np.argsort(ids)
            found.append((ids[order], rows[order]))
        return found
