"""Compiled scans: scan_numpy.py says what they do, and these do it many times faster.

Loading them takes a second.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from imgsim.index.bounds import LANES, TILE
from imgsim.index.mapped_segment import StoredRows
from imgsim.index.projection import Projection
from imgsim.index.scan_numpy import (
    RAISED,
    UNIT,
    Bits,
    BoundsInput,
    Codes,
    Doubles,
    Group,
    Integers,
    RowsInput,
    ScanState,
    Singles,
    Words,
)

if (TILE, LANES, RAISED, UNIT) != (1_024, 128, 1 + 1e-10, 2.0**-24):
    # They are compiled in, and numba keeps what it compiled until the text of this file changes.
    raise ImportError("these constants have changed: change them here too")

_LOOKED_AT = 64  # scores between two decisions whether one of them matters
_AT_ONCE = 16  # rows that meet all queries while the cache holds them
_ROUNDING = {"contract", "reassoc", "nsz"}  # sums in any order; infinities keep their meaning

_inlined: Any = njit(fastmath=_ROUNDING, forceinline=True)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(nogil=True, cache=True, fastmath=_ROUNDING)(function)
    except RuntimeError:  # numba finds no directory that it can write to
        return njit(nogil=True, fastmath=_ROUNDING)(function)


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

    ``start`` is a multiple of TILE, or where a scan stopped. Returns where to go on: ``stop``, or
    before if a query has no room for more candidates; or for a row whose checksum is not that of
    the table, its complement. The first tile goes in small steps, so that limits come soon.
    """
    levels, queries = inputs.levels, len(group.norms)
    scores = np.empty((TILE // LANES, queries, LANES), np.float32)
    left = np.empty(TILE * queries, np.int64), np.empty(TILE * queries, np.int64)
    weights = np.empty_like(group.near)
    first = start
    while first < stop:
        rows = min(stop - first, LANES if first % TILE or first < start + TILE else TILE)
        if not _has_room(state, rows):
            return first
        if first == start or first % TILE == 0:
            weights[:] = group.near * levels.near_scale[first // TILE]
        groups = slice(first // LANES, (first + rows + LANES - 1) // LANES)
        _start_scores(levels.near_rest[groups], levels.half[groups], group.near_rest, scores)
        _add_products(levels.near[groups], weights, scores)
        reached = group.norms, state.limits
        count = _first_level(levels.near_error[groups], rows, inputs, reached, scores, left)
        some = left[0][:count], left[1][:count]
        wrong: int = _second_level(inputs, group, state, first, scores, some)
        if wrong >= 0:
            return ~wrong
        first += rows
    return stop


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


@_inlined
def _looked_at(stored: StoredRows, row: int, embedding: Singles) -> tuple[float, float]:
    """Return the least and the greatest distance that a row can have, by its square in float32."""
    dim = len(embedding)
    square = np.float64(_square(stored.embeddings[row], embedding))
    bounds: tuple[float, float] = _around(square, (dim + 8) * UNIT, dim * 2.0**-120)
    return bounds


@_inlined
def _is_whole(stored: StoredRows, row: int) -> bool:
    """Say whether the checksum of a row is what the table says."""
    noted = stored.table[row]
    equal: bool = _row_sum(stored.words[row], noted["id"], stored.weights) == noted["sum"]
    return equal


@_inlined
def _row_sum(words: Words, number: int, weights: Words) -> np.uint64:
    """Return the checksum of a row, as checksum.py explains it."""
    dim, bits = len(words), np.uint64(number)
    total: np.uint64 = (bits & np.uint64(0xFFFFFFFF)) * np.uint64(weights[dim])
    total += (bits >> np.uint64(32)) * np.uint64(weights[dim + 1])
    for j in range(dim):
        total += np.uint64(words[j]) * np.uint64(weights[j])  # the processor has this product
    return total


@_inlined
def _around(square: float, rho: float, lost: float) -> tuple[float, float]:
    """Return the least and the greatest distance that a square in float32 can stand for."""
    low = np.sqrt(max(0.0, square - lost)) * (1 - rho) if square < np.inf else 0.0
    return low, np.sqrt(square + lost) * (1 + rho)


@_compiled
def _start_scores(rests: Singles, halves: Singles, query_rests: Doubles, scores: Singles) -> None:
    """Set scores (g, q, LANES) to what does not depend on codes, from rows' values (g, LANES)."""
    for number in range(len(rests)):
        for a in range(len(query_rests)):
            rest = np.float32(query_rests[a])
            for lane in range(LANES):
                scores[number, a, lane] = rests[number, lane] * rest - halves[number, lane]


@_compiled
def _add_products(codes: Codes, weights: Singles, scores: Singles) -> None:
    """Add the products of codes (g, m1, LANES) and weights (q, m1) to scores (g, q, LANES)."""
    queries, near = weights.shape
    decoded = np.empty((near, LANES), np.float32)
    for number in range(len(codes)):
        if queries == 1:
            _score(codes[number], weights[0], scores[number, 0])
            continue
        for j in range(near):
            for lane in range(LANES):
                decoded[j, lane] = np.float32(codes[number, j, lane])
        for j in range(0, near, 4):
            for a in range(0, queries, 4):
                _score_four(
                    decoded[j : j + 4], weights[a : a + 4, j : j + 4], scores[number, a : a + 4]
                )


@_inlined
def _score(codes: Codes, weights: Singles, scores: Singles) -> None:
    for j in range(0, len(weights), 4):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for lane in range(LANES):
            c0, c1 = np.float32(codes[j, lane]), np.float32(codes[j + 1, lane])
            c2, c3 = np.float32(codes[j + 2, lane]), np.float32(codes[j + 3, lane])
            scores[lane] += w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3


@_inlined
def _score_four(c: Singles, w: Singles, scores: Singles) -> None:
    """Add the products of codes (4, LANES) and weights (4, 4) to scores (4, LANES)."""
    p0, p1, p2, p3 = w[0, 0], w[0, 1], w[0, 2], w[0, 3]
    q0, q1, q2, q3 = w[1, 0], w[1, 1], w[1, 2], w[1, 3]
    r0, r1, r2, r3 = w[2, 0], w[2, 1], w[2, 2], w[2, 3]
    s0, s1, s2, s3 = w[3, 0], w[3, 1], w[3, 2], w[3, 3]
    for lane in range(LANES):
        c0, c1, c2, c3 = c[0, lane], c[1, lane], c[2, lane], c[3, lane]
        scores[0, lane] += p0 * c0 + p1 * c1 + p2 * c2 + p3 * c3
        scores[1, lane] += q0 * c0 + q1 * c1 + q2 * c2 + q3 * c3
        scores[2, lane] += r0 * c0 + r1 * c1 + r2 * c2 + r3 * c3
        scores[3, lane] += s0 * c0 + s1 * c1 + s2 * c2 + s3 * c3


@_compiled
def _first_level(
    near_errors: Singles,
    rows: int,
    inputs: BoundsInput,
    reached: tuple[Doubles, Doubles],
    scores: Singles,
    left: tuple[Integers, Integers],
) -> int:
    """Write query and row numbers of what the first level leaves of some rows; return how many."""
    norms, limits = reached
    count = 0
    for a in range(len(limits)):
        if limits[a] < 0:
            continue
        for number in range(len(near_errors)):
            reach = limits[a] * RAISED + inputs.margins[a] + near_errors[number]
            exactly = (norms[a] ** 2 - reach**2) / 2 - inputs.errors[a]
            threshold = np.float32(exactly - 2 * UNIT * abs(exactly))  # surely not above
            for some in range(0, LANES, _LOOKED_AT):
                passed = np.float32(0)  # a wider type would take several times as long
                for lane in range(some, some + _LOOKED_AT):
                    passed += np.float32(scores[number, a, lane] >= threshold)
                if passed:
                    for lane in range(some, min(some + _LOOKED_AT, rows - number * LANES)):
                        left[0][count], left[1][count] = a, number * LANES + lane
                        count += scores[number, a, lane] >= threshold
    return count


@_compiled
def _second_level(
    inputs: BoundsInput,
    group: Group,
    state: ScanState,
    first: int,
    scores: Singles,
    left: tuple[Integers, Integers],
) -> int:
    """Look at those rows of the tile from row ``first`` that the second level does not rule out.

    Returns a row whose checksum is another, or -1.
    """
    levels = inputs.levels
    count, tile = levels.far.shape[1], first // TILE
    rho = (count + 8) * UNIT
    for a, place in zip(left[0], left[1]):  # noqa: B905 - numba knows no strict
        row: int = first + place
        limit = state.limits[a] * RAISED
        if _is_excluded(inputs.excluded, row):
            continue
        state.tally[0] += 1
        score = np.float64(scores[place // LANES, a, place % LANES])
        near = levels.near_rest[row // LANES, row % LANES] - group.near_rest[a]
        along = group.norms[a] ** 2 - 2 * score - near**2
        off = inputs.margins[a] + levels.far_tail[row, 1]
        further = np.float32(0)
        for j in range(count):
            difference = np.float32(levels.far[row, j]) * levels.far_scale[tile, j]
            difference -= group.far[a, j]
            further += difference * difference
        along += further
        rest, query_rest = np.float64(levels.far_tail[row, 0]), group.far_rest[a]
        low = np.sqrt(max(0.0, along + (rest - query_rest) ** 2 - 2 * inputs.errors[a]))
        low = max(0.0, low * (1 - rho) - off)
        if low <= limit:
            if not _is_whole(inputs.stored, row):
                return row
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


@_inlined
def _is_excluded(excluded: Bits, row: int) -> bool:
    return len(excluded) > 0 and (excluded[row >> 3] >> (row & 7)) & 1 == 1


@_inlined
def _square(x: Singles, y: Singles) -> np.float32:
    total = np.float32(0)
    for j in range(len(y)):
        difference = x[j] - y[j]
        total += difference * difference
    return total


@_inlined
def _write_four(x: Singles, y: Singles, out: Singles) -> None:
    y0, y1, y2, y3 = y[0], y[1], y[2], y[3]
    t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for j in range(len(x)):
        d0, d1, d2, d3 = x[j] - y0[j], x[j] - y1[j], x[j] - y2[j], x[j] - y3[j]
        t0, t1, t2, t3 = t0 + d0 * d0, t1 + d1 * d1, t2 + d2 * d2, t3 + d3 * d3
    out[0], out[1], out[2], out[3] = t0, t1, t2, t3


@_inlined
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


@_inlined
def _keep(state: ScanState, a: int, row: int, low: float, high: float) -> None:
    """Add a candidate of query ``a``, and its upper bound if that is among the least."""
    state.rows[a, state.counts[a]] = row
    state.lows[a, state.counts[a]] = low
    state.counts[a] += 1
    heap, size = state.highs[a], state.highs.shape[1]
    if size == 0 or high >= heap[0]:
        return
    parent, child = 0, 1
    while child < size:
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= high:
            break
        heap[parent] = heap[child]
        parent, child = child, 2 * child + 1
    heap[parent] = high
    state.limits[a] = min(state.limits[a], heap[0])
