"""Compiled scans: scan_numpy.py says what they do, and these do it many times faster.

Loading them takes a second.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from imgsim.index.bounds import LANES, MIDDLE, TILE, WIDE_MIDDLE
from imgsim.index.candidates import (
    around,
    has_room,
    is_excluded,
    keep,
    look,
    sink,
    square_of_difference,
)
from imgsim.index.first_level import (
    ROUNDING,
    inlined,
    room_for_weights,
    round_weights,
    uncounted,
    write_scores,
)
from imgsim.index.projection import BLOCK, Projection
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

if (TILE, LANES, BLOCK, MIDDLE, WIDE_MIDDLE) != (1_024, 128, 64, 7.5, 127.5) or (
    (RAISED, UNIT) != (1 + 1e-10, 2.0**-24)
):
    # They are compiled in, and numba keeps what it compiled until the text of this file changes.
    raise ImportError("these constants have changed: change them here too")

COMPILED_IN = "1abb09a035a9ba51"
"""XXH3 of the modules that these scans import compiled; a test compares it for that reason."""

_AT_ONCE = 16  # rows that meet all queries while the cache holds them
_FETCHED = 256  # values of an embedding; the processor goes on by itself

_Scores = tuple[Singles, Doubles]  # of a tile, and what they can be wrong by


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(nogil=True, cache=True, fastmath=ROUNDING)(function)
    except RuntimeError:  # numba finds no directory that it can write to
        return njit(nogil=True, fastmath=ROUNDING)(function)


_uncounted: Any = uncounted()


def project(projection: Projection, queries: Singles) -> Group:
    """Do what scan_numpy.py does, without BLAS.

    The threads of BLAS go on spinning afterwards where the scans want to run.
    """
    widths = projection.fine, projection.near
    near, far, *lengths = _project(queries, projection.mean, projection.directions, widths)
    return Group(queries, near, far, projection.blocks, *lengths)


@_compiled
def _project(
    queries: Singles, mean: Doubles, directions: Doubles, widths: tuple[int, int]
) -> tuple[Singles, Singles, Doubles, Doubles, Doubles]:
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
    fine, near = widths
    close = np.empty((count, fine + near), np.float32)
    far = np.empty((count, directions.shape[1] - near), np.float32)
    rests = np.empty((2, count))
    for a in range(count):
        close[a, :fine], close[a, fine:], far[a] = along[a, :fine], along[a, :near], along[a, near:]
        left = squares[a]
        for i in range(near):
            left -= along[a, i] * along[a, i]
        rests[0, a] = np.sqrt(max(0.0, left))
        for i in range(near, directions.shape[1]):
            left -= along[a, i] * along[a, i]
        rests[1, a] = np.sqrt(max(0.0, left))
    return close, far, rests[0], rests[1], np.sqrt(squares)


@_compiled
def scan_bounds(inputs: BoundsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Scan the first level of the rows from ``start``, a multiple of TILE, to ``stop``.

    Returns where to go on: ``stop``, or before if there is no room for more candidates or for more
    that wait; or for a row whose checksum is not that of the table, its complement.
    """
    queries = len(group.norms)
    scores = np.empty((TILE // LANES, queries, LANES), np.float32)
    weights = room_for_weights(group)
    for number, first in enumerate(range(start, stop, TILE)):
        waiting = state.tally[2] + TILE * queries
        if waiting > len(state.waiting.rows) or not has_room(state, TILE):
            return first
        place = number % len(weights.twice)
        if place == 0:
            tiles = first // TILE, -(-stop // TILE)
            round_weights(inputs, group, tiles, weights)
        write_scores(inputs, group, first // TILE, place, weights, scores)
        doubts = weights.doubts[place * queries : (place + 1) * queries]
        span = first, min(stop, first + TILE)
        wrong = _first_level(inputs, group, state, span, (scores, doubts))
        if wrong >= 0:
            return ~int(wrong)
    return stop


@_compiled
def look_closer(inputs: BoundsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Look at the second level of what waits from ``start`` to ``stop``, rows of this source.

    Returns what :func:`scan_bounds` does.
    """
    left = np.empty(TILE, np.int64), np.empty(TILE)
    for first in range(start, stop, TILE):
        if not has_room(state, TILE):
            return first
        count = _still_near(inputs, state, (first, min(stop, first + TILE)), left[0])
        count = _second_level(inputs, group, state, left[0][:count], left[1])
        for i in range(count):
            a, row = state.waiting.queries[left[0][i]], state.waiting.rows[left[0][i]]
            if left[1][i] <= state.limits[a] * RAISED and not look(inputs, group, state, a, row):
                return ~int(row)
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
        if not has_room(state, _AT_ONCE):
            return first
        rows = min(_AT_ONCE, stop - first)
        _write_squares(inputs.embeddings[first : first + rows], group.embeddings, squares)
        for a in range(queries):
            threshold = state.limits[a] * RAISED / (1 - rho)
            for i in range(rows):
                square = np.float64(squares[i, a])
                if threshold < 0 or is_excluded(inputs.excluded, first + i):
                    continue
                if square <= threshold * threshold + lost or square == np.inf:
                    low, high = around(square, rho, lost)
                    state.tally[1] += 1
                    keep(state, a, inputs.first + first + i, low, high)
    return stop


@inlined
def _threshold(
    inputs: BoundsInput, group: Group, limits: Doubles, a: int, row: int, doubt: float
) -> np.float32:
    """Return a score that rows beside ``row`` within the limit of query ``a`` are not below."""
    off = inputs.margins[a] + inputs.levels.near_error[row // LANES]
    reach = limits[a] * RAISED + off
    exactly = (group.norms[a] ** 2 - reach**2) / 2 - inputs.errors[a] - doubt
    return np.float32(exactly - 2 * UNIT * abs(exactly))  # surely not above


@_uncounted
def _first_level(
    inputs: BoundsInput, group: Group, state: ScanState, span: tuple[int, int], known: _Scores
) -> int:
    """Let those rows of a tile wait that the first level leaves, but for the best so far.

    Those are looked at. Returns a row whose checksum is another, or -1.
    """
    scores, doubts = known
    first, stop = span
    waiting, k = state.waiting, state.best.shape[1]
    for a in range(len(doubts)):
        if state.limits[a] < 0:
            continue
        square = group.norms[a] ** 2 - 2 * doubts[a]
        start = count = state.tally[2]
        better, least = False, np.float32(0)
        for chunk in range(first, stop, CHUNK):
            number, lane = (chunk - first) // LANES, chunk % LANES
            if lane == 0:
                least = _threshold(inputs, group, state.limits, a, chunk, doubts[a])
            bits = reached(scores, (number * len(doubts) + a) * LANES + lane, least)
            while bits:
                place, bits = lowest(bits), bits & (bits - np.uint64(1))
                row: int = chunk + place
                if row >= stop or is_excluded(inputs.excluded, row):
                    continue
                score = scores[number, a, lane + place]
                if k > 0 and score > -state.best[a, 0]:
                    sink(state.best[a], -score)
                    better = True
                waiting.queries[count], waiting.rows[count] = a, row
                waiting.squares[count] = square - 2 * np.float64(score)
                count += 1
        state.tally[2] = count
        if better:
            most = square + 2 * np.float64(state.best[a, 0])
            wrong = _look_at_best(inputs, group, state, start, most)
            if wrong >= 0:
                return int(wrong)
    return -1


@_uncounted
def _look_at_best(
    inputs: BoundsInput, group: Group, state: ScanState, start: int, most: float
) -> int:
    """Look at what waits since ``start`` with a square of at most ``most``, k rows at most.

    Returns a row whose checksum is another, or -1.
    """
    waiting, left, place = state.waiting, state.best.shape[1], start
    while place < state.tally[2] and left > 0:
        if waiting.squares[place] > most:
            place += 1
            continue
        a, row = waiting.queries[place], waiting.rows[place]
        left -= 1
        state.tally[0] += 1
        state.tally[2] -= 1
        last = state.tally[2]
        waiting.rows[place], waiting.squares[place] = waiting.rows[last], waiting.squares[last]
        if not look(inputs, group, state, a, row):
            return int(row)
    return -1


@_uncounted
def _still_near(
    inputs: BoundsInput, state: ScanState, span: tuple[int, int], left: Integers
) -> int:
    """Write the places of what waits that the first level still leaves; return how many.

    What will be read is asked for early, because memory is slow to answer.
    """
    levels, count = inputs.levels, 0
    for place in range(span[0], span[1]):
        a, row = state.waiting.queries[place], state.waiting.rows[place]
        off = inputs.margins[a] + levels.near_error[row // LANES]
        reach = state.limits[a] * RAISED + off
        if state.waiting.squares[place] - 2 * inputs.errors[a] > reach**2:
            continue
        fetch(levels.far, row * levels.far.shape[1])
        fetch(levels.far_tail, row * 2)
        fetch(levels.near_rest, row)
        left[count] = place
        count += 1
    return count


@_uncounted
def _second_level(
    inputs: BoundsInput, group: Group, state: ScanState, left: Integers, lows: Doubles
) -> int:
    """Keep of ``left`` what the second level leaves, and write lower bounds; return how many."""
    levels, dim = inputs.levels, group.embeddings.shape[1]
    rho = (levels.far_scale.shape[1] + 8) * UNIT
    kept = 0
    for place in left:
        a, row = state.waiting.queries[place], state.waiting.rows[place]
        near = levels.near_rest[row // LANES, row % LANES] - group.near_rest[a]
        off = inputs.margins[a] + levels.far_tail[row, 1]
        along = state.waiting.squares[place] - near**2
        along += _square_of_far(levels.far[row], levels.far_scale[row // TILE], group.far[a])
        rest, query_rest = np.float64(levels.far_tail[row, 0]), group.far_rest[a]
        low = np.sqrt(max(0.0, along + (rest - query_rest) ** 2 - 2 * inputs.errors[a]))
        low = max(0.0, low * (1 - rho) - off)
        if low <= state.limits[a] * RAISED:
            left[kept], lows[kept] = place, low
            kept += 1
            for line in range(0, min(dim, _FETCHED), 16):
                fetch(inputs.stored.embeddings, row * dim + line)
    state.tally[0] += len(left)
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


@_uncounted
def _write_squares(rows: Singles, embeddings: Singles, squares: Singles) -> None:
    """Write the squares of the distances of rows (n, d) to queries (q, d): squares (n, q)."""
    for a in range(0, len(embeddings), 4):
        for i in range(len(rows)):
            if len(embeddings) == 1:
                squares[i, 0] = square_of_difference(rows[i], embeddings[0])
            else:
                _write_four(rows[i], embeddings[a : a + 4], squares[i, a : a + 4])


@inlined
def _write_four(x: Singles, y: Singles, out: Singles) -> None:
    y0, y1, y2, y3 = y[0], y[1], y[2], y[3]
    t0, t1, t2, t3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for j in range(len(x)):
        d0, d1, d2, d3 = x[j] - y0[j], x[j] - y1[j], x[j] - y2[j], x[j] - y3[j]
        t0, t1, t2, t3 = t0 + d0 * d0, t1 + d1 * d1, t2 + d2 * d2, t3 + d3 * d3
    out[0], out[1], out[2], out[3] = t0, t1, t2, t3
