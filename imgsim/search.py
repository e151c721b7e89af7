"""Exact nearest neighbours from lower bounds: scan a little, prove that the rest cannot win.

A search goes: scores of the first level for every row; the true distances of the rows that look
best, whose k-th is a limit; every row whose bound exceeds the limit is out, as bounds.py proves;
the second level thins what is left, and true distances decide. Segments without bounds are scanned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim.bounds import GROUP, LARGEST, Basis, Bounds, Projected
from imgsim.exact import Block, Nearest, distances, merge, scan
from imgsim.vectors import MappedVectors

_SCORE_BYTES = 64 << 20
_CACHED_SCORES = 1 << 17  # what stays in the cache between the product and the maxima
_EXACT_ROWS = 1_024
_UNIT = 2.0**-24
_FURTHER_ERROR = 2e-5


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


@dataclass
class SearchStats:
    """How many rows a search looked at in each way, summed over its queries."""

    queries: int = 0
    scanned: int = 0
    bounded: int = 0
    first_level: int = 0
    second_level: int = 0


@dataclass(frozen=True)
class _Query:
    """One query: its vector, its projection, and the length of that."""

    vector: NDArray[np.float64]
    far: NDArray[np.float32]
    far_rest: np.float32
    near_rest: np.float32
    norm: float


class Searcher:
    """Answers queries over some sources; holds nothing but their bounds and ids."""

    def __init__(self, sources: Sequence[Source], basis: Basis | None) -> None:
        self.stats = SearchStats()
        self._basis = basis
        self._plain = [source for source in sources if source.bounds is None]
        self._sources = [source for source in sources if source.bounds is not None]
        if self._sources:
            self._lay_out()

    def _lay_out(self) -> None:
        """Give every column of every tile a number, and every group of columns."""
        firsts, ids, bases, steps = [0], [], [], []
        for source in self._sources:
            assert source.bounds is not None
            tiles, _, width = source.bounds.tiles.shape
            step = width // GROUP
            columns = np.full(tiles * width, -1, np.int64)
            columns[: len(source.ids)] = source.ids
            ids.append(columns)
            starts = firsts[-1] + width * np.arange(tiles)
            bases.append((starts[:, None] + np.arange(step)).ravel())
            steps.append(np.full(tiles * step, step))
            firsts.append(firsts[-1] + tiles * width)
        self._firsts = np.array(firsts)
        self._ids = np.concatenate(ids)
        self._bases = np.concatenate(bases)
        self._steps = np.concatenate(steps)
        self._dead = np.flatnonzero(self._ids < 0)
        self._norm = max(source.bounds.norm for source in self._sources if source.bounds)

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[Nearest]:
        """Return the ``k`` nearest of each of ``queries`` (q, d) in ascending (distance, id)."""
        blocks = (block for source in self._plain for block in source.blocks())
        best = scan(queries, blocks, k)
        self.stats.queries += len(queries)
        self.stats.scanned += len(queries) * sum(len(source.ids) for source in self._plain)
        if self._sources:
            at_once = max(1, min(256, _SCORE_BYTES // (4 * len(self._ids))))
            for start in range(0, len(queries), at_once):
                part = slice(start, start + at_once)
                best[part] = self._bounded(queries[part], best[part], k)
        return best

    def _bounded(
        self, queries: NDArray[np.float32], best: Sequence[Nearest], k: int
    ) -> list[Nearest]:
        """Return the best of each query with the rows that have bounds."""
        assert self._basis is not None
        projected = self._basis.project(queries)
        if not projected.norms.max() < LARGEST:
            blocks = (block for source in self._sources for block in source.blocks())
            return scan(queries, blocks, k, best)
        scores, tops = self._scores(projected)
        self.stats.bounded += len(queries) * (len(self._ids) - len(self._dead))
        return [
            self._refine(_query(queries[i], projected, i), scores[i], tops[i], best[i], k)
            for i in range(len(queries))
        ]

    def _scores(self, projected: Projected) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the first level's score of each column, and the greatest of each group."""
        n = len(projected.norms)
        short = np.column_stack([projected.near, projected.near_rest, np.ones(n, np.float32)])
        scores = np.empty((n, len(self._ids)), np.float32)
        tops = np.empty((n, len(self._bases)), np.float32)
        column = group = 0
        for source in self._sources:
            assert source.bounds is not None
            all_tiles = source.bounds.tiles
            width = all_tiles.shape[2]
            at_once = max(1, _CACHED_SCORES // (n * width))
            for first in range(0, len(all_tiles), at_once):
                tiles = all_tiles[first : first + at_once]
                part = scores[:, column : column + len(tiles) * width]
                for number, tile in enumerate(tiles):
                    np.matmul(short, tile, out=part[:, number * width : (number + 1) * width])
                if self._dead.size:
                    part[:, self._ids[column : column + part.shape[1]] < 0] = -np.inf
                found = _group_maxima(part.reshape(n, len(tiles), width))
                tops[:, group : group + found.shape[1]] = found
                column, group = column + part.shape[1], group + found.shape[1]
        return scores, tops

    def _refine(
        self,
        query: _Query,
        scores: NDArray[np.float32],
        tops: NDArray[np.float32],
        best: Nearest,
        k: int,
    ) -> Nearest:
        seeds = min(len(tops), max(2 * k, GROUP))
        members = self._members(np.argpartition(tops, -seeds)[-seeds:])
        first = members[np.arange(seeds), scores[members].argmax(axis=1)]
        first = first[self._ids[first] >= 0]
        best = self._look(query, first, best, k)
        columns = self._first_level(query, scores, tops, _limit(best, k))
        columns = np.setdiff1d(columns, first, assume_unique=True)
        self.stats.first_level += len(columns) + len(first)
        squares = self._second_level(query, columns, scores[columns])
        order = np.argsort(squares)
        columns, squares = columns[order], squares[order]
        done, step = 0, 2 * k
        while done < len(columns):  # the nearest bounds first, and the limit shrinks as we go
            left = np.searchsorted(squares, self._square_limit(query, _limit(best, k)), "right")
            chosen = columns[done : min(left, done + step)]
            if not len(chosen):
                break
            best = self._look(query, chosen, best, k)
            done, step = done + len(chosen), _EXACT_ROWS
        self.stats.second_level += done + len(first)
        return best

    def _first_level(
        self,
        query: _Query,
        scores: NDArray[np.float32],
        tops: NDArray[np.float32],
        limit: float,
    ) -> NDArray[np.int64]:
        """Return the columns whose bound does not exceed the limit."""
        threshold = self._threshold(query, limit)
        members = self._members(np.flatnonzero(tops >= threshold))
        columns = members[scores[members] >= threshold]
        return columns[self._ids[columns] >= 0]

    def _second_level(
        self, query: _Query, columns: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the squares of the second level's bounds."""
        squares = query.norm**2 - 2 * scores.astype(np.float64)
        for source, part, rows in self._by_source(columns):
            assert source.bounds is not None
            further = source.bounds.further[rows]
            near_rest = further[:, -1] - query.near_rest
            difference = further[:, :-1] - np.append(query.far, query.far_rest)
            squares[part] += np.einsum("ij,ij->i", difference, difference) - near_rest**2
        return squares

    def _look(self, query: _Query, columns: NDArray[np.int64], best: Nearest, k: int) -> Nearest:
        """Return the best with the true distances of some columns' rows."""
        for source, part, rows in self._by_source(columns):
            found = distances(query.vector, source.vectors.take(rows))
            best = merge(best, self._ids[columns[part]], found, k)
        return best

    def _by_source(
        self, columns: NDArray[np.int64]
    ) -> Iterator[tuple[Source, NDArray[np.bool_] | slice, NDArray[np.int64]]]:
        """Yield each source that has some of the columns, which they are, and their rows."""
        if len(self._sources) == 1:
            yield self._sources[0], slice(None), columns
            return
        numbers = np.searchsorted(self._firsts, columns, "right") - 1
        for number in np.unique(numbers).tolist():
            part = numbers == number
            yield self._sources[number], part, columns[part] - self._firsts[number]

    def _members(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the columns (g, GROUP) of each group."""
        return self._bases[groups, None] + self._steps[groups, None] * np.arange(GROUP)

    def _threshold(self, query: _Query, limit: float) -> np.float32:
        """Return the score below which a column's distance surely exceeds the limit."""
        reach = limit * (1 + 1e-10) + self._slack(query)
        threshold = (query.norm**2 - reach**2) / 2 - self._error(query)
        return np.float32(np.nextafter(np.float32(threshold), np.float32(-np.inf)))

    def _square_limit(self, query: _Query, limit: float) -> float:
        """Return the second level's square above which a distance surely exceeds the limit."""
        reach = limit * (1 + 1e-10) + self._slack(query)
        return float(reach**2 * (1 + _FURTHER_ERROR) + 2 * self._error(query))

    def _slack(self, query: _Query) -> float:
        return 2 * _UNIT * (self._norm + query.norm)

    def _error(self, query: _Query) -> float:
        assert self._basis is not None
        terms = self._basis.near + 4
        product = self._norm * query.norm + self._norm**2 / 2
        return terms * (_UNIT * product + 2.0**-126)


def _limit(best: Nearest, k: int) -> float:
    """Return the distance that a row must not exceed to be among the ``k`` best."""
    return float(best[1][-1]) if len(best[1]) == k else np.inf


def _query(vector: NDArray[np.float32], projected: Projected, i: int) -> _Query:
    return _Query(
        vector.astype(np.float64),
        projected.far[i],
        projected.far_rest[i],
        projected.near_rest[i],
        float(projected.norms[i]),
    )


def _group_maxima(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for scores (n, tiles, width) the greatest of each group, (n, groups), by halving."""
    half = scores.shape[2] // 2
    greatest = np.maximum(scores[:, :, :half], scores[:, :, half:])
    while half > scores.shape[2] // GROUP:
        half //= 2
        greatest = np.maximum(greatest[:, :, :half], greatest[:, :, half : 2 * half])
    return greatest.reshape(len(scores), -1)
