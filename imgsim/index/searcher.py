"""Exact nearest neighbours: look at a little of each row, prove that the others cannot win.

Scans find the candidates, the rows that their bounds do not rule out. Distances of those, computed
in float64, decide. Where a segment has no bounds, its embeddings themselves are scanned.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from imgsim.index import scan_numpy
from imgsim.index.bounds import TILE
from imgsim.index.projection import Projection
from imgsim.index.scan_numpy import Backend
from imgsim.index.search import Answer, Part, Scan, Search, Searched, Source
from imgsim.index.topk import NONE, TopKRequest
from imgsim.results import SearchStats

_LOG = logging.getLogger(__name__)

_LOADING = 200_000_000  # values whose scan in NumPy takes as long as loading the compiled scans
_ASKING = 1_000_000  # values whose scan takes as long as what else bounds cost NumPy for a query
_ALONE = 3_000_000  # values that one thread scans before another would have begun
_GROUP = 64  # queries that are scanned for together, or fewer if each wants very many
_TILES = 4  # in a part, at least
_AT_ONCE = 1_024  # queries whose candidates are in memory at the same time


class BackendChoice:
    """Chooses what scans: NumPy, until that has cost what loading the compiled scans costs."""

    def __init__(self) -> None:
        self._scanned = 0

    def __call__(self, values: int) -> Backend:
        """Return what to scan with, where it costs as much as so many values."""
        if "imgsim.index.scan_numba" not in sys.modules:
            self._scanned += values
            if self._scanned <= _LOADING:
                _LOG.debug("scanning in NumPy, about %d values", values)
                return scan_numpy
        from imgsim.index import scan_numba  # noqa: PLC0415 - numba takes a second

        _LOG.debug("scanning with compiled scans, about %d values", values)
        return scan_numba


class SegmentSearcher:
    """Answers queries over some sources, from several threads if need be.

    It holds their bounds mapped, the room in which rows wait, and little else. ``choose`` returns
    the backend for so many values; a scan keeps at most ``most_highs`` upper bounds for a group of
    queries.
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
        projection = projection or Projection(np.zeros(dim), np.zeros((dim, 0)), 0, 0)
        firsts = np.cumsum([0, *map(len, sources)])
        self._values = sum(
            len(source) * (projection.planes if source.bounds else 4 * dim) for source in sources
        )
        self._asking = _ASKING if any(source.bounds for source in sources) else 0
        self._choose = choose
        self._most_highs = most_highs
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, "imgsim-search")
        parts = list(_parts([len(source) for source in sources], self._threads))
        norms = np.array([[source.bounds.norm if source.bounds else 0.0] for source in sources])
        self._searched = Searched(sources, firsts, parts, projection, norms)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def search(
        self,
        queries: NDArray[np.float32],
        k: int | None,
        limits: float | NDArray[np.float64] = np.inf,
    ) -> Answer:
        """Return the ``k`` nearest of each of ``queries`` (q, d) in ascending (distance, id).

        Only images at a distance of at most the query's limit count, of which there is one for each
        (q,) or for all; with a ``k`` of None, all of them.
        """
        total = int(self._searched.firsts[-1])
        if not total:
            return Answer([(NONE.ids, NONE.distances) for _ in queries], SearchStats(len(queries)))
        k = None if k is None or k >= total else k
        limits = np.broadcast_to(limits, len(queries))
        return _joined(
            [
                self._search(TopKRequest(queries[some], k, limits[some]))
                for start in range(0, len(queries), _AT_ONCE)
                for some in (slice(start, start + _AT_ONCE),)
            ]
        )

    def _search(self, request: TopKRequest) -> Answer:
        values = len(request.queries) * self._values
        backend = self._choose(values + len(request.queries) * self._asking)
        step = max(1, min(_GROUP, self._most_highs // (request.k or 1)))
        starts = range(0, len(request.queries), step)

        def search(start: int) -> Search:
            some = slice(start, start + step)
            part = TopKRequest(request.queries[some], request.k, request.limits[some])
            return Search(self._searched, backend, part)

        if values < _ALONE:
            return _joined([search(start).run() for start in starts])
        if len(starts) < self._threads:  # each query by all threads
            return _joined([search(start).run(self._together) for start in starts])
        return _joined(list(self._pool.map(lambda start: search(start).run(), starts)))

    def _together(self, scan: Callable[[], Scan]) -> list[Scan]:
        others = [self._pool.submit(scan) for _ in range(self._threads - 1)]
        return [scan(), *(other.result() for other in others)]


def _parts(sizes: Sequence[int], threads: int) -> Iterator[Part]:
    """Yield parts of sources of these sizes, ever smaller ones, so that threads end together."""
    left = sum(sizes)
    for number, size in enumerate(sizes):
        start = 0
        while start < size:
            step = TILE * max(_TILES, left // TILE // (2 * threads))
            stop = min(size, start + step)
            yield Part(number, start, stop)
            left -= stop - start
            start = stop


def _joined(answers: Sequence[Answer]) -> Answer:
    """Return the answers to some queries after each other, as one."""
    if len(answers) == 1:
        return answers[0]
    nearest = [found for answer in answers for found in answer.nearest]
    return Answer(nearest, sum((answer.stats for answer in answers), SearchStats()))
