"""One search over some sources, by one thread or several."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.index.bounds import LARGEST, TILE, Bounds, errors, margins
from imgsim.index.distance import Block, Nearest, distances
from imgsim.index.mapped_segment import MappedSegment
from imgsim.index.projection import Projection
from imgsim.index.scan_numpy import (
    RAISED,
    Backend,
    BoundsInput,
    RowsInput,
    ScanState,
    Waiting,
)
from imgsim.index.topk import NONE, Candidates, TopKRequest, joined
from imgsim.records import unpacked
from imgsim.results import SearchStats

_ROOM = 4 * TILE  # candidates of a query before their distances are computed
_WAITING = 1 << 20  # rows that wait for a closer look, or those of a tile if that is more
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


class Part(NamedTuple):
    """The rows of source ``number`` that are scanned in one go."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Searched:
    """Some sources, where the rows of each begin, their parts, and the projection of the bounds.

    ``norms`` (s, 1) are those of the bounds, or 0. ``spare`` has buffers that no scan uses, as a
    system takes its time to give out memory.
    """

    sources: Sequence[Source]
    firsts: NDArray[np.int64]
    parts: Sequence[Part]
    projection: Projection
    norms: NDArray[np.float64]
    spare: list[Waiting] = field(default_factory=list)

    def room(self, most: int) -> Waiting:
        """Return buffers for so many rows that wait, or more."""
        with suppress(IndexError):
            spare = self.spare.pop()
            if len(spare.rows) >= most:
                return spare
        return Waiting(np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most))


class Answer(NamedTuple):
    """The nearest of each query, and what the search looked at."""

    nearest: list[Nearest]
    stats: SearchStats


class Search:
    """The search for one group of queries."""

    def __init__(self, searched: Searched, backend: Backend, request: TopKRequest) -> None:
        self.searched = searched
        self.backend = backend
        self.request = request
        queries = request.queries
        if len(queries) > 1:  # filled up to a multiple of four
            queries = np.pad(queries, ((0, -len(queries) % 4), (0, 0)), "edge")
        self.group = backend.project(searched.projection, queries)
        self.bounds = self._bounds()

    def run(
        self, in_threads: Callable[[Callable[[], "Scan"]], list["Scan"]] = lambda scan: [scan()]
    ) -> Answer:
        """Return the nearest of each query; ``in_threads`` calls a function in some threads."""
        parts = iter(self.searched.parts)  # each scan takes the next
        limits = np.full(len(self.group.norms), -1.0)  # what fills up the group finds nothing
        limits[: len(self.request.queries)] = self.request.limits

        def scan() -> Scan:
            return Scan(self, limits).over(parts)

        scans = in_threads(scan) if len(self.searched.parts) > 1 else [scan()]
        best = self.request.best(*(scan.best for scan in scans))
        best, computed = self.settle([scan.state for scan in scans], best)
        mine = SearchStats(queries=len(self.request.queries), distances=computed)
        stats = reduce(add, (scan.stats() for scan in scans), mine)
        return Answer(self.request.split(best), stats)

    def _bounds(self) -> list[BoundsInput | None]:
        """Return the bounds of each source for these queries, where it has any for them."""
        searched, norms = self.searched, self.group.norms
        if not norms.max() < LARGEST:
            return [None] * len(searched.sources)
        planes = searched.projection.planes
        return [
            BoundsInput(
                source.bounds.levels,
                source.segment.stored,
                source.excluded,
                first,
                margin,
                error,
                source.bounds.norm,
            )
            if source.bounds
            else None
            for source, first, margin, error in zip(
                searched.sources,
                searched.firsts.tolist(),
                margins(searched.norms, norms),
                errors(planes, searched.norms, norms),
                strict=False,
            )
        ]

    def settle(self, states: Sequence[ScanState], best: Candidates) -> tuple[Candidates, int]:
        """Return the best with the candidates that scans found, and how many distances it took.

        The scans have their room back.
        """
        limits = states[0].limits.copy()  # all lower the same
        if self.request.k and len(states) > 1:
            highs = np.concatenate([state.highs for state in states], axis=1)
            last = self.request.k - 1
            limits = np.minimum(limits, np.partition(highs, last)[:, last])
        if best is not NONE:
            self.request.tighten(limits, best)
        owner, number = joined(*(_left(state, limits) for state in states))
        order = np.argsort(number)
        found = self._distances(owner[order], number[order])
        return self.request.best(best, *found), len(order)

    def _distances(
        self, owners: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> Iterator[Candidates]:
        """Yield the distances of some queries to the rows of these numbers, in pairs by row."""
        sources, firsts = self.searched.sources, self.searched.firsts
        step = -(-_PAIR_BYTES // (8 * self.request.queries.shape[1]))
        for start in range(0, len(numbers), step):
            mine, some = owners[start : start + step], numbers[start : start + step]
            cuts = pairwise(some.searchsorted(firsts).tolist())
            parts = [
                source.segment.again(some[at:stop] - first)
                for source, first, (at, stop) in zip(sources, firsts, cuts, strict=False)
                if at < stop
            ]
            ids, embeddings = joined(*parts)
            found = distances(self.request.queries[mine], embeddings)
            near = found <= self.request.limits[mine]
            yield Candidates(mine[near], ids[near], found[near])


class Scan:
    """What one thread does of a search.

    The scans of all threads lower the same ``limits``. One may undo what another did just then,
    which leaves a limit that was one before.
    """

    def __init__(self, search: Search, limits: NDArray[np.float64]) -> None:
        self.best = NONE
        self._search = search
        self._waiting: list[tuple[int, int]] = []  # numbers of sources, and where theirs ends
        self._counts = {"scanned": 0, "bounded": 0, "distances": 0}
        queries, k = len(limits), search.request.k or 0
        room, rows = _ROOM + 2 * k, int(search.searched.firsts[-1])
        tiles = rows // TILE + len(search.searched.parts)
        most = queries * TILE * min(tiles, max(1, _WAITING // (queries * TILE)))
        self.state = ScanState(
            limits,
            np.full((queries, k), np.inf),
            np.full((queries, k), np.inf, np.float32),
            np.empty((queries, room), np.int64),
            np.empty((queries, room)),
            np.zeros(queries, np.int64),
            search.searched.room(most),
            np.zeros(3, np.int64),
        )

    def over(self, parts: Iterator[Part]) -> "Scan":
        """Scan the parts that this thread gets, and look at what waits then; return itself."""
        for number, at, stop in parts:
            kind, scan = self._scan_of(number)
            self._counts[kind] += len(self._search.request.queries) * (stop - at)
            while (at := self._reached(number, scan(at, stop))) < stop:
                self._note(number)
                self._look_closer()
                self._settle()
            self._note(number)
        self._look_closer()
        self._search.searched.spare.append(self.state.waiting)
        return self

    def stats(self) -> SearchStats:
        """Return what was looked at."""
        first_level, second_level, _ = self.state.tally.tolist()
        return SearchStats(first_level=first_level, second_level=second_level, **self._counts)

    def _note(self, number: int) -> None:
        """Note that what waits since the last note are rows of source ``number``."""
        if self._waiting and self._waiting[-1][0] == number:
            self._waiting.pop()
        self._waiting.append((number, int(self.state.tally[2])))

    def _look_closer(self) -> None:
        """Look at the second level of all that waits."""
        scan, at = self._search.backend.look_closer, 0
        for number, stop in self._waiting:
            bounds = self._search.bounds[number]
            while bounds and at < stop:
                at = self._reached(number, scan(bounds, self._search.group, self.state, at, stop))
                if at < stop:
                    self._settle()
        self._waiting.clear()
        self.state.tally[2] = 0

    def _settle(self) -> None:
        """Compute the distances of the candidates, which lowers limits and makes room for more."""
        self.best, computed = self._search.settle([self.state], self.best)
        self._counts["distances"] += computed
        self._search.request.tighten(self.state.limits, self.best)

    def _reached(self, number: int, at: int) -> int:
        """Return where a scan of a source goes on, or raise what a damaged row asks for."""
        if at < 0:
            raise self._search.searched.sources[number].segment.damage(~at)
        return at

    def _scan_of(self, number: int) -> tuple[str, Callable[[int, int], int]]:
        """Return how source ``number`` is scanned, and what scans its rows from one to another."""
        backend, group = self._search.backend, self._search.group
        bounds = self._search.bounds[number]
        if bounds:
            return "bounded", partial(backend.scan_bounds, bounds, group, self.state)
        source = self._search.searched.sources[number]
        first = int(self._search.searched.firsts[number])
        rows = RowsInput(source.segment.verified(), source.excluded, first)
        return "scanned", partial(backend.scan_rows, rows, group, self.state)


def _left(
    state: ScanState, limits: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the queries of candidates within their limits, and their numbers; drop all."""
    most = int(state.counts.max())
    real = np.arange(most) < state.counts[:, None]
    queries, places = np.nonzero(real & (state.lows[:, :most] <= limits[:, None] * RAISED))
    state.counts[:] = 0
    return queries, state.rows[queries, places]
