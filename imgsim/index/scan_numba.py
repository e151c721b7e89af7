"""Compiled scans: scan_numpy.py says what they do, and these do it many times faster.

Loading them takes a second.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from imgsim.index.bounds import LANES, MIDDLE, TILE, WIDE_MIDDLE
from imgsim.index.checksum_numba import is_whole
from imgsim.index.first_level import ROUNDING, inlined, room_for_weights, write_scores
from imgsim.index.mapped_segment import StoredRows
from imgsim.index.projection import Projection
from imgsim.index.scan_numpy import (
    RAISED,
    UNIT,
    Bits,
    BoundsInput,
    Doubles,
    Group,
    Integers,
    RowsInput,
    ScanState,
    Singles,
)
from imgsim.index.simd import CHUNK, fetch, lowest, reached, square_of_codes

if (TILE, LANES, MIDDLE, WIDE_MIDDLE) != (1_024, 128, 7.5, 127.5) or (
    (RAISED, UNIT) != (1 + 1e-10, 2.0**-24)
):
    # They are compiled in, and numba keeps what it compiled until the text of this file changes.
    raise ImportError("these constants have changed: change them here too")

COMPILED_IN = "28f95eefce989dae"
"""XXH3 of checksum_numba.py, first_level.py and simd.py, which a test compares for that reason."""

_FIRST_TILES = 8  # whose best rows tell how near neighbours can be, before others are looked at
_AT_ONCE = 16  # rows that meet all queries while the cache holds them
_FETCHED = 256  # values of an embedding; the processor goes on by itself

_Left = tuple[Integers, Integers, Doubles]  # numbers of queries and of rows in a tile; lower bounds


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(nogil=True, cache=True, fastmath=ROUNDING)(function)
    except RuntimeError:  # numba finds no directory that it can write to
        return njit(nogil=True, fastmath=ROUNDING)(function)


def project(projection: Projection, queries: Singles) -> tuple[Doubles, Doubles]:
    """Do what :meth:`Projection.project` does, without BLAS.

    The threads of BLAS go on spinning afterwards where the scans want to run.
    """
    along, squares = _project(queries, projection.mean, projection.directions)
    return along, squares


@_compiled
def _project(queries: Singles, mean: Doubles, directions: Doubles) -> tuple[Doubles, Doubles]:
    count, dim = queries.shape
    along = np.zeros((count, directions.shape[1]))
    squares = np.zeros(count)
    centred = np.zeros((count, dim + 3))
    for a in range(count):
        for j in range(dim):
            centred[a, j] = np.float64(queries[a, j]) - mean[j]
            squares[a] += centred[a, j] * centred[a, j]
    for j in range(0, dim, 4):
        v0, v1 = directions[j], directions[min(j + 1, dim - 1)]  # beyond the last: times 0
        v2, v3 = directions[min(j + 2, dim - 1)], directions[min(j + 3, dim - 1)]
        for a in range(count):
            c0, c1, c2, c3 = centred[a, j], centred[a, j + 1], centred[a, j + 2], centred[a, j + 3]
            for i in range(directions.shape[1]):
                along[a, i] += c0 * v0[i] + c1 * v1[i] + c2 * v2[i] + c3 * v3[i]
    return along, squares


@_compiled
def scan_bounds(inputs: BoundsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Scan the bounds of the rows from ``start`` to ``stop``.

    ``start`` is a multiple of TILE. Returns where to go on: ``stop``, or before if a query has no
    room for more candidates; or for a row whose checksum is not that of the table, its complement.
    """
    queries, known_tiles = len(group.norms), 0
    if state.highs.shape[1] > 0 and state.limits[0] == np.inf:
        known_tiles = min(_FIRST_TILES, (stop - start + TILE - 1) // TILE)
    scores = np.empty((max(1, known_tiles), TILE // LANES, queries, LANES), np.float32)
    doubts = np.empty((len(scores), queries))
    left = _room(TILE * queries)
    weights = room_for_weights(group)
    for tile in range(known_tiles):
        number = start // TILE + tile
        write_scores(inputs, group, number, weights, scores[tile], doubts[tile])
    wrong: int = _limit(inputs, group, state, start, min(stop - start, known_tiles * TILE), scores)
    for first in range(start, stop, TILE):
        if wrong >= 0:
            return ~wrong
        if not _has_room(state, TILE):
            return first
        tile = (first - start) // TILE
        if tile >= known_tiles:
            tile = 0
            write_scores(inputs, group, first // TILE, weights, scores[0], doubts[0])
        known = scores[tile], doubts[tile]
        span = first, min(stop, first + TILE)
        count = _first_level(inputs, group, state.limits, span, known, left)
        count = _second_level(inputs, group, state, first, known, _first(left, count))
        wrong = _look(inputs, group, state, first, _first(left, count))
    return stop if wrong < 0 else ~wrong


@_compiled
def scan_rows(inputs: RowsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Scan the embeddings from row ``start`` to ``stop``, in float32; return where to go on.

    A sum of d squares of differences has a relative error below (d + 4) u in float32, if it is
    finite; underflow changes each by less than 2^-120.
    """
    queries, dim = group.embeddings.shape
    rho, lost = (dim + 8) * UNIT, dim * 2.0**-120
    squares = np.empty((_AT_ONCE, queries), np.float32)
    for first in range(start, stop, _AT_ONCE):
        if not _has_room(state, _AT_ONCE):
            return first
        rows = min(_AT_ONCE, stop - first)
        _write_squares(inputs.embeddings[first : first + rows], group.embeddings, squares)
        for a in range(queries):
            threshold = state.limits[a] * RAISED / (1 - rho)
            for i in range(rows):
                square = np.float64(squares[i, a])
                if threshold < 0 or _is_excluded(inputs.excluded, first + i):
                    continue
                if square <= threshold * threshold + lost or square == np.inf:
                    low, high = _around(square, rho, lost)
                    state.tally[1] += 1
                    _keep(state, a, inputs.first + first + i, low, high)
    return stop


@inlined
def _looked_at(stored: StoredRows, row: int, embedding: Singles) -> tuple[float, float]:
    """Return the least and the greatest distance that a row can have, by its square in float32."""
    dim = len(embedding)
    square = np.float64(_square(stored.embeddings[row], embedding))
    bounds: tuple[float, float] = _around(square, (dim + 8) * UNIT, dim * 2.0**-120)
    return bounds


@inlined
def _around(square: float, rho: float, lost: float) -> tuple[float, float]:
    """Return the least and the greatest distance that a square in float32 can stand for."""
    low = np.sqrt(max(0.0, square - lost)) * (1 - rho) if square < np.inf else 0.0
    return low, np.sqrt(square + lost) * (1 + rho)


@_compiled
def _limit(
    inputs: BoundsInput, group: Group, state: ScanState, start: int, rows: int, scores: Singles
) -> int:
    """Lower the limit of each query by the rows from ``start`` that have its best scores.

    Returns a row whose checksum is another, or -1.
    """
    k = state.highs.shape[1]
    if rows == 0 or rows < 8 * k:
        return -1
    best, highs, found = np.empty(k, np.float32), np.empty(k), np.empty(rows, np.int64)
    for a in range(len(group.norms)):
        if state.limits[a] < 0:
            continue
        best[:], highs[:], count = np.inf, np.inf, 0
        for chunk in range(0, rows, CHUNK):
            some = scores[chunk // TILE, chunk % TILE // LANES, a]
            bits = reached(some, chunk % LANES, -best[0])
            while bits:
                row, bits = chunk + lowest(bits), bits & (bits - np.uint64(1))
                if row < rows and not _is_excluded(inputs.excluded, start + row):
                    _sink(best, -some[row % LANES])
                    found[count] = row
                    count += 1
        looked_at = 0
        for row in found[:count]:
            score = scores[row // TILE, row % TILE // LANES, a, row % LANES]
            if score >= -best[0] and looked_at < k:
                looked_at += 1
                if not is_whole(inputs.stored, start + row):
                    return int(start + row)
                _, high = _looked_at(inputs.stored, start + row, group.embeddings[a])
                _sink(highs, high)
        state.limits[a] = min(state.limits[a], highs[0])
    return -1


@_compiled
def _first_level(
    inputs: BoundsInput,
    group: Group,
    limits: Doubles,
    span: tuple[int, int],
    known: tuple[Singles, Doubles],
    left: _Left,
) -> int:
    """Write query and row numbers of what the first level leaves of a tile; return how many."""
    scores, doubts = known
    first, stop = span
    count = 0
    for a in range(len(limits)):
        if limits[a] < 0:
            continue
        for start in range(first, stop, LANES):
            off = inputs.margins[a] + inputs.levels.near_error[start // LANES]
            reach = limits[a] * RAISED + off
            exactly = (group.norms[a] ** 2 - reach**2) / 2 - inputs.errors[a] - doubts[a]
            threshold = np.float32(exactly - 2 * UNIT * abs(exactly))  # surely not above
            some = scores[(start - first) // LANES, a]
            for chunk in range(0, LANES, CHUNK):
                bits = reached(some, chunk, threshold)
                while bits:
                    place = start - first + chunk + lowest(bits)
                    left[0][count], left[1][count] = a, place
                    count += first + place < stop
                    bits &= bits - np.uint64(1)
    return count


@inlined
def _room(count: int) -> _Left:
    return np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)


@inlined
def _first(left: _Left, count: int) -> _Left:
    return left[0][:count], left[1][:count], left[2][:count]


@_compiled
def _second_level(
    inputs: BoundsInput,
    group: Group,
    state: ScanState,
    first: int,
    known: tuple[Singles, Doubles],
    left: _Left,
) -> int:
    """Keep of ``left`` what the second level leaves, with lower bounds; return how many.

    What will be read is asked for early, because memory is slow to answer.
    """
    levels = inputs.levels
    scores, doubts = known
    owners, places, lows = left
    size, scale = levels.far.shape[1], levels.far_scale[first // TILE]
    rho = (len(scale) + 8) * UNIT
    for place in places:
        fetch(levels.far, (first + place) * size)
        fetch(levels.far_tail, (first + place) * 2)
    kept = 0
    for i in range(len(places)):
        a, place = owners[i], places[i]
        row: int = first + place
        if _is_excluded(inputs.excluded, row):
            continue
        state.tally[0] += 1
        score = np.float64(scores[place // LANES, a, place % LANES])
        near = levels.near_rest[row // LANES, row % LANES] - group.near_rest[a]
        along = group.norms[a] ** 2 - 2 * score - near**2
        off = inputs.margins[a] + levels.far_tail[row, 1]
        doubt = 2 * (inputs.errors[a] + doubts[a])
        along += _square_of_far(levels.far[row], scale, group.far[a])
        rest, query_rest = np.float64(levels.far_tail[row, 0]), group.far_rest[a]
        low = np.sqrt(max(0.0, along + (rest - query_rest) ** 2 - doubt))
        low = max(0.0, low * (1 - rho) - off)
        if low <= state.limits[a] * RAISED:
            owners[kept], places[kept], lows[kept] = a, place, low
            kept += 1
            dim = group.embeddings.shape[1]
            for line in range(0, min(dim, _FETCHED), 16):
                fetch(inputs.stored.embeddings, row * dim + line)
    return kept


@inlined
def _square_of_far(codes: Bits, scale: Singles, coordinates: Singles) -> np.float32:
    """Return the square of the distance of codes of 4 or 8 bits times scale (m,) to coordinates."""
    if len(codes) < len(scale):
        half: np.float32 = square_of_codes(codes, scale, coordinates)
        return half
    total = np.float32(0)
    for j in range(len(scale)):
        difference = (np.float32(codes[j]) - np.float32(WIDE_MIDDLE)) * scale[j] - coordinates[j]
        total += difference * difference
    return total


@_compiled
def _look(inputs: BoundsInput, group: Group, state: ScanState, first: int, left: _Left) -> int:
    """Keep those of the rows that are near, by their squares in float32.

    Returns a row whose checksum is another, or -1.
    """
    owners, places, lows = left
    for i in range(len(places)):
        a, row = owners[i], first + places[i]
        if lows[i] > state.limits[a] * RAISED:
            continue
        if not is_whole(inputs.stored, row):
            return int(row)
        low, high = _looked_at(inputs.stored, row, group.embeddings[a])
        state.tally[1] += 1
        _keep(state, a, inputs.first + row, low, high)
    return -1


@_compiled
def _write_squares(rows: Singles, embeddings: Singles, squares: Singles) -> None:
    """Write the squares of the distances of rows (n, d) to queries (q, d): squares (n, q)."""
    for a in range(0, len(embeddings), 4):
        for i in range(len(rows)):
            if len(embeddings) == 1:
                squares[i, 0] = _square(rows[i], embeddings[0])
            else:
                _write_four(rows[i], embeddings[a : a + 4], squares[i, a : a + 4])


@inlined
def _is_excluded(excluded: Bits, row: int) -> bool:
    return len(excluded) > 0 and (excluded[row >> 3] >> (row & 7)) & 1 == 1


@inlined
def _square(x: Singles, y: Singles) -> np.float32:
    total = np.float32(0)
    for j in range(len(y)):
        difference = x[j] - y[j]
        total += difference * difference
    return total


@inlined
def _write_four(x: Singles, y: Singles, out: Singles) -> None:
    y0, y1, y2, y3 = y[0], y[1], y[2], y[3]
    t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for j in range(len(x)):
        d0, d1, d2, d3 = x[j] - y0[j], x[j] - y1[j], x[j] - y2[j], x[j] - y3[j]
        t0, t1, t2, t3 = t0 + d0 * d0, t1 + d1 * d1, t2 + d2 * d2, t3 + d3 * d3
    out[0], out[1], out[2], out[3] = t0, t1, t2, t3


@inlined
def _has_room(state: ScanState, more: int) -> bool:
    """Drop candidates beyond their limits where room is short; return whether all have room."""
    room = state.rows.shape[1]
    for a in range(len(state.counts)):
        if state.counts[a] + more > room:
            kept = 0
            for i in range(state.counts[a]):
                if state.lows[a, i] <= state.limits[a] * RAISED:
                    state.rows[a, kept], state.lows[a, kept] = state.rows[a, i], state.lows[a, i]
                    kept += 1
            state.counts[a] = kept
            if 2 * kept > room:
                return False
    return True


@inlined
def _keep(state: ScanState, a: int, row: int, low: float, high: float) -> None:
    """Add a candidate of query ``a``, and its upper bound if that is among the least."""
    state.rows[a, state.counts[a]] = row
    state.lows[a, state.counts[a]] = low
    state.counts[a] += 1
    if state.highs.shape[1]:
        _sink(state.highs[a], high)
        state.limits[a] = min(state.limits[a], state.highs[a, 0])


@inlined
def _sink(heap: NDArray[Any], value: float) -> None:
    """Put a value in the place of the greatest of a heap, if it is less."""
    if value >= heap[0]:
        return
    parent, child, size = 0, 1, len(heap)
    while child < size:
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[parent] = heap[child]
        parent, child = child, 2 * child + 1
    heap[parent] = value
