"""Exact nearest neighbours: look at a little of each row, prove that the others cannot win.

Scans find the candidates, the rows that their bounds do not rule out. Distances of those, computed
in float64, decide. Where a segment has no bounds, its embeddings themselves are scanned.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.index import scan_numpy
from imgsim.index.bounds import LARGEST, TILE, Bounds
from imgsim.index.distance import Block, Nearest, distances
from imgsim.index.mapped_segment import MappedSegment
from imgsim.index.projection import Projection
from imgsim.index.scan_numpy import (
    RAISED,
    Backend,
    BoundsInput,
    Group,
    RowsInput,
    ScanState,
)
from imgsim.index.topk import NONE, Candidates, TopKRequest
from imgsim.records import unpacked
from imgsim.results import SearchStats

_LOG = logging.getLogger(__name__)

_LOADING = 200_000_000  # values whose scan in NumPy takes as long as loading the compiled scans
_GROUP = 64  # queries that are scanned for together, or fewer if each wants very many
_AT_ONCE = 1_024  # queries whose candidates are in memory at the same time
_ROOM = 4 * TILE  # candidates of a query before their distances are computed
_PAIR_BYTES = 1 << 19  # of differences that are computed at once; much more is slow to allocate


@dataclass(frozen=True, eq=False)
class Source:
    """One segment: its rows, which of them do not count, and its bounds if it has any.

    ``excluded`` has a bit for each row that does not count, the least first, or is empty.
    """

    segment: MappedSegment
    excluded: NDArray[np.uint8]
    bounds: Bounds | None

    def __len__(self) -> int:
        return len(self.segment)

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of the rows that count, a few megabytes at a time."""
        left, start = ~unpacked(self.excluded, len(self)), 0
        for ids, rows in self.segment.blocks():
            here = left[start : start + len(rows)]
            start += len(rows)
            yield (ids, rows) if here.all() else (ids[here], rows[here])


class BackendChoice:
    """Chooses what scans: NumPy, until that has cost what loading the compiled scans costs."""

    def __init__(self) -> None:
        self._scanned = 0

    def __call__(self, values: int) -> Backend:
        """Return what to scan so many values with."""
        if "imgsim.index.scan_numba" not in sys.modules:
            self._scanned += values
            if self._scanned <= _LOADING:
                _LOG.debug("scanning %d values in NumPy", values)
                return scan_numpy
        from imgsim.index import scan_numba  # noqa: PLC0415 - numba takes a second

        _LOG.debug("scanning %d values with compiled scans", values)
        return scan_numba


class Answer(NamedTuple):
    """The nearest of each query, and what the search looked at."""

    nearest: list[Nearest]
    stats: SearchStats


class SegmentSearcher:
    """Answers queries over some sources, from several threads if need be.

    It holds their bounds mapped, and little else. ``choose`` returns the backend for so many
    values; a scan keeps at most ``most_highs`` upper bounds for a group of queries.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        projection: Projection | None,
        dim: int,
        choose: Callable[[int], Backend],
        *,
        most_highs: int = 1 << 18,
    ) -> None:
        self.sources = sources
        self.projection = projection or Projection(np.zeros(dim), np.zeros((dim, 0)), 0, 0)
        self.firsts = np.cumsum([0, *map(len, sources)])
        self._values = sum(
            len(source) * (self.projection.planes if source.bounds else 4 * dim)
            for source in sources
        )
        self._choose = choose
        self._most_highs = most_highs
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, "imgsim-search")
        step = TILE * max(8, int(self.firsts[-1]) // TILE // (4 * self._threads))
        self.parts = [  # number of the source, first row and end of what is scanned in one go
            (number, start, min(start + step, len(source)))
            for number, source in enumerate(sources)
            for start in range(0, len(source), step)
        ]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def search(self, queries: NDArray[np.float32], k: int | None, radius: float = np.inf) -> Answer:
        """Return the ``k`` nearest of each of ``queries`` (q, d) in ascending (distance, id).

        Only images at a distance of at most ``radius`` count; with a ``k`` of None, all of them.
        """
        total = int(self.firsts[-1])
        if not total:
            return Answer([(NONE.ids, NONE.distances) for _ in queries], SearchStats(len(queries)))
        k = None if k is None or k >= total else k
        nearest, stats = [], SearchStats()
        for start in range(0, len(queries), _AT_ONCE):
            part = self._search(TopKRequest(queries[start : start + _AT_ONCE], k, radius))
            nearest += part.nearest
            stats += part.stats
        return Answer(nearest, stats)

    def _search(self, request: TopKRequest) -> Answer:
        backend = self._choose(len(request.queries) * self._values)
        step = max(1, min(_GROUP, self._most_highs // (request.k or 1)))
        searches = [
            _Search(self, backend, replace(request, queries=request.queries[start : start + step]))
            for start in range(0, len(request.queries), step)
        ]
        if len(searches) < self._threads:  # each query by all threads
            answers = [search.run(self._together) for search in searches]
        else:
            answers = list(self._pool.map(_Search.run, searches))
        return Answer(
            [nearest for answer in answers for nearest in answer.nearest],
            sum((answer.stats for answer in answers), SearchStats()),
        )

    def _together(self, scan: Callable[[], "_Scanned"]) -> list["_Scanned"]:
        others = [self._pool.submit(scan) for _ in range(self._threads - 1)]
        return [scan(), *(other.result() for other in others)]


_Scanned = tuple[ScanState, Candidates, SearchStats]


class _Search:
    """The search for one group of queries."""

    def __init__(self, searcher: SegmentSearcher, backend: Backend, request: TopKRequest) -> None:
        self._sources, self._firsts = searcher.sources, searcher.firsts
        self._parts = searcher.parts
        self._projection = searcher.projection
        self._backend = backend
        self._request = request

    def run(
        self,
        in_threads: Callable[[Callable[[], _Scanned]], list[_Scanned]] = lambda scan: [scan()],
    ) -> Answer:
        """Return the nearest of each query; ``in_threads`` calls a function in some threads."""
        group, parts = self._group(), iter(self._parts)  # each scan takes the next
        limits = self._limits(len(group.norms))

        def scan() -> _Scanned:
            return self._scan(group, parts, self._nothing_found(limits))

        scanned = in_threads(scan) if len(self._parts) > 1 else [scan()]
        settled = [best for _, best, _ in scanned if best is not NONE]
        best = self._request.best(*settled) if settled else NONE
        best, computed = self._settle([state for state, _, _ in scanned], best)
        mine = SearchStats(queries=len(self._request.queries), distances=computed)
        stats = sum((stats for _, _, stats in scanned), mine)
        return Answer(self._request.split(best), stats)

    def _group(self) -> Group:
        """Project the queries, filled up to a multiple of four."""
        queries = self._request.queries
        if len(queries) > 1:
            queries = np.pad(queries, ((0, -len(queries) % 4), (0, 0)), "edge")
        along, squares = self._backend.project(self._projection, queries)
        rests = self._projection.rests(along, squares)
        with np.errstate(over="ignore"):  # such queries are refused by their norm
            narrow = along.astype(np.float32)
        fine, near = self._projection.fine, self._projection.near
        planes = np.hstack([narrow[:, :fine], narrow[:, :near]])
        parts = planes, narrow[:, near:].copy(), self._projection.blocks
        return Group(queries, *parts, *rests, np.sqrt(squares))

    def _scan(
        self, group: Group, parts: Iterator[tuple[int, int, int]], state: ScanState
    ) -> _Scanned:
        """Return the candidates in the parts that this scan gets, and the best of those settled."""
        best = NONE
        counts = {"scanned": 0, "bounded": 0, "distances": 0}
        for number, at, stop in parts:
            kind, scan = self._scan_of(number, group, state)
            counts[kind] += len(self._request.queries) * (stop - at)
            while (at := self._reached(number, scan(at, stop))) < stop:
                best, computed = self._settle([state], best)
                counts["distances"] += computed
                self._request.tighten(state.limits, best)
        first_level, second_level = state.tally.tolist()
        return (
            state,
            best,
            SearchStats(first_level=first_level, second_level=second_level, **counts),
        )

    def _reached(self, number: int, at: int) -> int:
        """Return where a scan of a source goes on, or raise what a damaged row asks for."""
        if at < 0:
            raise self._sources[number].segment.damage(~at)
        return at

    def _scan_of(
        self, number: int, group: Group, state: ScanState
    ) -> tuple[str, Callable[[int, int], int]]:
        """Return how source ``number`` is scanned, and what scans its rows from one to another."""
        source, first = self._sources[number], int(self._firsts[number])
        if source.bounds is not None and group.norms.max() < LARGEST:
            bounds = BoundsInput(
                source.bounds.levels,
                source.segment.stored,
                source.excluded,
                first,
                source.bounds.margin(group.norms),
                source.bounds.error(group.norms),
                source.bounds.norm,
            )
            scan = self._backend.scan_bounds
            return "bounded", lambda start, stop: scan(bounds, group, state, start, stop)
        rows = RowsInput(source.segment.verified(), source.excluded, first)
        scan_rows = self._backend.scan_rows
        return "scanned", lambda start, stop: scan_rows(rows, group, state, start, stop)

    def _limits(self, queries: int) -> NDArray[np.float64]:
        """Return the first limits; queries that fill up the group find nothing."""
        limits = np.full(queries, self._request.radius)
        limits[len(self._request.queries) :] = -1
        return limits

    def _nothing_found(self, limits: NDArray[np.float64]) -> ScanState:
        """Return where a scan puts what it finds.

        The scans of all threads lower the same limits. One may undo what another did just then,
        which leaves a limit that was one before.
        """
        k, queries = self._request.k or 0, len(limits)
        room = _ROOM + 2 * k
        return ScanState(
            limits,
            np.full((queries, k), np.inf),
            np.empty((queries, room), np.int64),
            np.empty((queries, room)),
            np.zeros(queries, np.int64),
            np.zeros(2, np.int64),
        )

    def _settle(self, states: Sequence[ScanState], best: Candidates) -> tuple[Candidates, int]:
        """Return the best with the candidates that scans found, and how many distances it took.

        The scans have their room back.
        """
        limits = np.minimum.reduce([state.limits for state in states])
        if self._request.k:
            highs = np.concatenate([state.highs for state in states], axis=1)
            last = self._request.k - 1
            limits = np.minimum(limits, np.partition(highs, last)[:, last])
        self._request.tighten(limits, best)
        owners, numbers = [], []
        for state in states:
            most = int(state.counts.max())
            real = np.arange(most) < state.counts[:, None]
            rows, places = np.nonzero(real & (state.lows[:, :most] <= limits[:, None] * RAISED))
            owners.append(rows)
            numbers.append(state.rows[rows, places])
            state.counts[:] = 0
        owner, number = np.concatenate(owners), np.concatenate(numbers)
        order = np.argsort(number)
        found = self._distances(owner[order], number[order])
        return self._request.best(best, *found), len(order)

    def _distances(
        self, owners: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> Iterator[Candidates]:
        """Yield the distances of some queries to the rows of these numbers, in pairs by row."""
        step = -(-_PAIR_BYTES // self._request.wide[0].nbytes)
        for start in range(0, len(numbers), step):
            mine, some = owners[start : start + step], numbers[start : start + step]
            cuts = np.searchsorted(some, self._firsts)
            parts = [
                self._sources[number].segment.again(
                    some[cuts[number] : cuts[number + 1]] - self._firsts[number]
                )
                for number in np.flatnonzero(np.diff(cuts)).tolist()
            ]
            ids, embeddings = map(np.concatenate, zip(*parts, strict=True))
            found = distances(self._request.wide[mine], embeddings)
            near = found <= self._request.radius
            yield Candidates(mine[near], ids[near], found[near])
