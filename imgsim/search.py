"""Exact nearest neighbours: look at a little of each row, prove that the others cannot win.

Walks find the candidates, the rows that their bounds do not rule out. Distances of those, computed
in float64, decide. Where a segment has no bounds, its rows are walked over themselves.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from imgsim import walks
from imgsim.basis import Basis
from imgsim.bounds import LARGEST, TILE, Bounds
from imgsim.exact import Block, Nearest, distances
from imgsim.ranking import NONE, Ranked, Wanted
from imgsim.types import SearchStats
from imgsim.vectors import MappedVectors
from imgsim.walks import RAISED, Found, Group, Segment

_LOADING = 500_000_000  # values whose walk in NumPy takes as long as loading the compiled walks
_GROUP = 64  # queries that walk together, or fewer if each wants very many
_HIGHS = 1 << 18  # upper bounds that a walk keeps for a group
_AT_ONCE = 1_024  # queries whose candidates are in memory at the same time
_ROOM = 4 * TILE  # candidates of a query before their distances are computed
_MANY = 256  # candidates of a segment whose vectors are worth being mapped for a look in float32
_PAIR_BYTES = 1 << 19  # of differences that are computed at once; much more is slow to allocate


@dataclass(frozen=True, eq=False)
class Source:
    """One segment: the image id of each row (-1: none), its vectors, its bounds if it has any."""

    ids: NDArray[np.int64]
    vectors: MappedVectors
    bounds: Bounds | None

    def blocks(self) -> Iterator[Block]:
        """Yield ids and vectors of the rows that are images, a few megabytes at a time."""
        for start, rows in self.vectors.blocks():
            ids = self.ids[start : start + len(rows)]
            live = ids >= 0
            yield (ids, rows) if live.all() else (ids[live], rows[live])


class Searcher:
    """Answers queries over some sources; holds nothing but their bounds and ids.

    ``walk_with`` is the module with the walks, :mod:`imgsim.walks` or :mod:`imgsim.kernels`; what
    is faster if it is not given.
    """

    _walked: ClassVar[int] = 0  # values that this process has walked over in NumPy

    def __init__(
        self,
        sources: Sequence[Source],
        basis: Basis | None,
        dim: int,
        walk_with: ModuleType | None = None,
    ) -> None:
        self.stats = SearchStats()
        self.sources = sources
        self.basis = basis or Basis(np.zeros(dim), np.zeros((dim, 0)), 0)
        self.firsts = np.cumsum([0, *(len(source.ids) for source in sources)])
        self._walk_with = walk_with
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads)

    def nearest(
        self, queries: NDArray[np.float32], k: int | None, radius: float = np.inf
    ) -> list[Nearest]:
        """Return the ``k`` nearest of each of ``queries`` (q, d) in ascending (distance, id).

        Only images at a distance of at most ``radius`` count; with a ``k`` of None, all of them.
        """
        total = int(self.firsts[-1])
        if not total:
            return [(NONE.ids, NONE.distances) for _ in queries]
        k = None if k is None or k >= total else k
        found = []
        for start in range(0, len(queries), _AT_ONCE):
            found += self._nearest(Wanted(queries[start : start + _AT_ONCE], k, radius))
        return found

    def _nearest(self, wanted: Wanted) -> list[Nearest]:
        walk_with = self._walk_with or self._cheapest(len(wanted.queries))
        step = max(1, min(_GROUP, _HIGHS // (wanted.k or 1)))
        searches = [
            _Search(self, walk_with, replace(wanted, queries=wanted.queries[start : start + step]))
            for start in range(0, len(wanted.queries), step)
        ]
        if len(searches) < self._threads:  # each query by all threads
            answers = [search.run(self._together) for search in searches]
        else:
            answers = list(self._pool.map(_Search.run, searches))
        for search in searches:
            self.stats += search.stats
        return [nearest for answer in answers for nearest in answer]

    def _together(self, walk: Callable[[], "_Walked"]) -> list["_Walked"]:
        others = [self._pool.submit(walk) for _ in range(self._threads - 1)]
        return [walk(), *(other.result() for other in others)]

    def _cheapest(self, queries: int) -> ModuleType:
        """Return the walks in NumPy until they have cost what loading the compiled ones costs."""
        values = queries * sum(
            len(source.ids) * (self.basis.near if source.bounds else 4 * source.vectors.dim)
            for source in self.sources
        )
        if "imgsim.kernels" not in sys.modules and Searcher._walked + values <= _LOADING:
            Searcher._walked += values
            return walks
        from imgsim import kernels  # noqa: PLC0415 - numba takes a second

        return kernels


_Walked = tuple[Found, Ranked, SearchStats]


class _Search:
    """The search for one group of queries."""

    def __init__(self, searcher: Searcher, walk_with: ModuleType, wanted: Wanted) -> None:
        self.stats = SearchStats(queries=len(wanted.queries))
        self._sources, self._firsts = searcher.sources, searcher.firsts
        self._basis = searcher.basis
        self._walks = walk_with
        self._wanted = wanted

    def run(
        self,
        in_threads: Callable[[Callable[[], _Walked]], list[_Walked]] = lambda walk: [walk()],
    ) -> list[Nearest]:
        """Return the nearest of each query; ``in_threads`` calls a function in some threads."""
        group = self._group()
        parts = iter(self._parts())  # each walk takes the next
        walked = in_threads(lambda: self._walk(group, parts))
        best = self._wanted.best(*(best for _, best, _ in walked))
        best, computed = self._settle([found for found, _, _ in walked], best)
        counts = (stats for _, _, stats in walked)
        self.stats = sum(counts, replace(self.stats, distances=computed))
        return self._wanted.split(best)

    def _group(self) -> Group:
        """Project the queries, filled up to a multiple of four."""
        queries, near = self._wanted.queries, self._basis.near
        if len(queries) > 1:
            queries = np.pad(queries, ((0, -len(queries) % 4), (0, 0)), "edge")
        along, squares = self._walks.project(self._basis, queries)
        rests, norms = self._basis.rests(along, squares), np.sqrt(squares)
        with np.errstate(over="ignore"):  # such queries are refused by their norm
            narrow = along.astype(np.float32)
        return Group(
            queries, narrow[:, :near].copy(), narrow[:, near:].copy(), *rests, norms, norms, norms
        )

    def _parts(self) -> list[tuple[int, int, int]]:
        """Return (number of the source, first row, end) of what is walked over in one go."""
        step = TILE * max(8, int(self._firsts[-1]) // TILE // 16)
        return [
            (number, start, min(start + step, len(source.ids)))
            for number, source in enumerate(self._sources)
            for start in range(0, len(source.ids), step)
        ]

    def _walk(self, group: Group, parts: Iterator[tuple[int, int, int]]) -> _Walked:
        """Return the candidates in the parts that this walk gets, and the best of those settled."""
        found, best = self._nothing_found(len(group.norms)), NONE
        scanned = bounded = settled = 0
        fits = bool(group.norms.max() < LARGEST)
        for number, at, stop in parts:
            source, first = self._sources[number], int(self._firsts[number])
            values = len(self._wanted.queries) * (stop - at)
            if source.bounds is not None and fits:
                walk, segment = (
                    self._walks.walk_bounds,
                    Segment(source.bounds.levels, source.ids, first),
                )
                margins = source.bounds.margin(group.norms)
                group = group._replace(margins=margins, errors=source.bounds.error(group.norms))
                bounded += values
            else:
                walk, segment = (
                    self._walks.walk_rows,
                    Segment(source.vectors.mapped(), source.ids, first),
                )
                scanned += values
            while (at := walk(segment, group, found, at, stop)) < stop:
                best, computed = self._settle([found], best)
                settled += computed
                self._wanted.tighten(found.limits, best)
        first_level, second_level = found.tally.tolist()
        stats = SearchStats(0, scanned, bounded, first_level, second_level, settled)
        return found, best, stats

    def _nothing_found(self, queries: int) -> Found:
        """Return where a walk puts what it finds; queries that fill up the group find nothing."""
        k = self._wanted.k or 0
        room = _ROOM + 2 * k
        limits = np.full(queries, self._wanted.radius)
        limits[len(self._wanted.queries) :] = -1
        return Found(
            limits,
            np.full((queries, k), np.inf),
            np.empty((queries, room), np.int64),
            np.empty((queries, room)),
            np.zeros(queries, np.int64),
            np.zeros(2, np.int64),
        )

    def _settle(self, founds: Sequence[Found], best: Ranked) -> tuple[Ranked, int]:
        """Return the best with the candidates that walks found, and how many distances it took.

        The walks have their room back.
        """
        limits = np.minimum.reduce([found.limits for found in founds])
        if self._wanted.k:
            highs = np.concatenate([found.highs for found in founds], axis=1)
            last = self._wanted.k - 1
            limits = np.minimum(limits, np.partition(highs, last)[:, last])
        self._wanted.tighten(limits, best)
        owners, numbers = [], []
        for found in founds:
            real = np.arange(found.rows.shape[1]) < found.counts[:, None]
            rows, places = np.nonzero(real & (found.lows <= limits[:, None] * RAISED))
            owners.append(rows)
            numbers.append(found.rows[rows, places])
            found.counts[:] = 0
        pairs = self._looked_at(np.concatenate(owners), np.concatenate(numbers), limits)
        return self._wanted.best(best, *self._distances(*pairs)), len(pairs[0])

    def _looked_at(
        self, owners: NDArray[np.int64], numbers: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return those pairs of queries and rows, by row, that a look in float32 does not rule out.

        Where a segment has few, it is not looked at.
        """
        order = np.argsort(numbers)
        owners, numbers = owners[order], numbers[order]
        cuts = np.searchsorted(numbers, self._firsts)
        lows, highs = np.zeros(len(numbers)), np.full(len(numbers), np.inf)
        for number in np.flatnonzero(np.diff(cuts) >= _MANY).tolist():
            part = slice(cuts[number], cuts[number + 1])
            rows, vectors = numbers[part] - self._firsts[number], self._sources[number].vectors
            mine = self._wanted.queries, owners[part]
            lows[part], highs[part] = self._walks.look(vectors.mapped(), rows, *mine)
        self._wanted.tighten(limits, self._wanted.best(Ranked(owners, numbers, highs)))
        near = lows <= limits[owners] * RAISED
        return owners[near], numbers[near]

    def _distances(self, owners: NDArray[np.int64], numbers: NDArray[np.int64]) -> Iterator[Ranked]:
        """Yield the distances of some queries to the rows of these numbers, in pairs by row."""
        step = -(-_PAIR_BYTES // self._wanted.wide[0].nbytes)
        for start in range(0, len(numbers), step):
            mine, some = owners[start : start + step], numbers[start : start + step]
            cuts = np.searchsorted(some, self._firsts)
            ids, vectors = [], []
            for number in np.flatnonzero(np.diff(cuts)).tolist():
                rows = some[cuts[number] : cuts[number + 1]] - self._firsts[number]
                ids.append(self._sources[number].ids[rows])
                vectors.append(self._sources[number].vectors.take(rows))
            found = distances(self._wanted.wide[mine], np.concatenate(vectors))
            near = found <= self._wanted.radius
            yield Ranked(mine[near], np.concatenate(ids)[near], found[near])
