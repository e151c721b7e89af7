"""Scans of the rows of a segment: which of them can be among the nearest.

A scan keeps, for each query of a group, the rows whose lower bound does not exceed the query's
limit. The limit shrinks to the k-th least of the upper bounds met so far. Similar images often lie
together, and before a scan has met them the limit says little. So it looks only at the rows with
the best scores at once, and the others that the first level leaves wait for the last limit.
bounds.py derives the bounds and what rounding they allow for.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsim.index.bounds import LANES, MIDDLE, TILE, WIDE_MIDDLE, Levels
from imgsim.index.checksum import row_sums
from imgsim.index.distance import distances
from imgsim.index.mapped_segment import StoredRows
from imgsim.index.projection import Projection


class Backend(Protocol):
    """What does the scanning: this module, or :mod:`imgsim.index.scan_numba`."""

    def project(self, projection: Projection, queries: NDArray[np.float32]) -> "Group":
        """See below, as of all of these."""

    def scan_bounds(
        self, inputs: "BoundsInput", group: "Group", state: "ScanState", start: int, stop: int
    ) -> int:
        """See below."""

    def look_closer(
        self, inputs: "BoundsInput", group: "Group", state: "ScanState", start: int, stop: int
    ) -> int:
        """See below."""

    def scan_rows(
        self, inputs: "RowsInput", group: "Group", state: "ScanState", start: int, stop: int
    ) -> int:
        """See below."""


RAISED = 1 + 1e-10
"""What a limit is raised by before a bound is compared with it."""

UNIT = 2.0**-24
"""The unit roundoff of float32."""

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bits = NDArray[np.uint8]
Words = NDArray[np.uint32]


class BoundsInput(NamedTuple):
    """The bounds of a segment, to be scanned for some queries.

    ``excluded`` has a bit for each row that does not count, or is empty; ``first`` is row 0's
    number. ``margins`` and ``errors`` (q,) are what bounds and scores can be wrong by, ``norm`` is
    what no row exceeds.
    """

    levels: Levels
    stored: StoredRows
    excluded: Bits
    first: int
    margins: Doubles
    errors: Doubles
    norm: float


class RowsInput(NamedTuple):
    """The embeddings (n, d) float32 of a segment, to be scanned; the rest is as above."""

    embeddings: Singles
    excluded: Bits
    first: int


class Group(NamedTuple):
    """Some queries of dimension d, a multiple of 4 in number unless it is one.

    ``embeddings`` (q, d) and the coordinates along the directions, ``near`` (q, p) with the first f
    of them twice, and ``far`` (q, m2 - m1), are float32; the lengths ``near_rest``, ``far_rest``
    and ``norms`` (q,) are float64. ``blocks`` are those of the projection.
    """

    embeddings: Singles
    near: Singles
    far: Singles
    blocks: Integers
    near_rest: Doubles
    far_rest: Doubles
    norms: Doubles


class Waiting(NamedTuple):
    """Rows that the first level left: their queries, numbers in the source, and squares (w,).

    Those are the squares of the distance |[c, r*] - b_q| of bounds.py, or less by what weights were
    rounded.
    """

    queries: NDArray[np.int32]
    rows: NDArray[np.int32]
    squares: Doubles


class ScanState(NamedTuple):
    """The buffers in which scans leave what they find for each of q queries.

    ``limits`` (q,) are the distances that a row must not exceed, negative for no query; ``highs``
    (q, k) the least upper bounds and ``best`` (q, k) float32 the best scores, negated, the greatest
    first; ``rows`` and ``lows`` (q, c) candidates and their lower bounds, ``counts`` (q,) of them
    real; ``tally`` (3,) how many rows the first and the second level left, and how many wait.
    """

    limits: Doubles
    highs: Doubles
    best: Singles
    rows: Integers
    lows: Doubles
    counts: Integers
    waiting: Waiting
    tally: Integers


def project(projection: Projection, queries: Singles) -> Group:
    """Return queries and their coordinates."""
    along, squares = projection.project(queries)
    rests = projection.rests(along, squares)
    with np.errstate(over="ignore"):  # such queries are refused by their norm
        narrow = along.astype(np.float32)
    fine, near = projection.fine, projection.near
    planes, far = np.hstack([narrow[:, :fine], narrow[:, :near]]), narrow[:, near:]
    return Group(queries, planes, far, projection.blocks, *rests, np.sqrt(squares))


def scan_bounds(inputs: BoundsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Scan the first level of the rows from ``start``, a multiple of TILE, to ``stop``.

    Returns where to go on: ``stop``, or before if there is no room for more candidates or for more
    that wait; or for a row whose checksum is not that of the table, its complement.
    """
    levels = inputs.levels
    for first in range(start, stop, TILE):
        most = TILE * len(group.norms)
        if not _has_room(state) or state.tally[2] + most > len(state.waiting.rows):
            return first
        rows, tile = min(TILE, stop - first), first // TILE
        groups = slice(first // LANES, -(-(first + rows) // LANES))
        scores = (group.near * levels.near_scale[tile]) @ _decoded(levels.near[groups])
        scores += group.near_rest[:, None].astype(np.float32) * levels.near_rest[groups, None]
        scores -= levels.half[groups, None]  # (groups, queries, LANES)
        reach = state.limits * RAISED + inputs.margins + levels.near_error[groups, None]
        with np.errstate(over="ignore"):  # where nothing is out of reach
            threshold = (group.norms**2 - reach**2) / 2 - inputs.errors
        number, queries, lane = np.nonzero(scores >= threshold[:, :, None])
        row = first + number * LANES + lane
        here = (row < stop) & (state.limits[queries] >= 0)
        here[here] = _count(inputs.excluded, row[here])
        row, queries = row[here], queries[here]
        score = scores[number[here], queries, lane[here]]
        is_best = _are_best(state.best, queries, score)
        few = queries[is_best], row[is_best]
        state.tally[0] += len(few[0])
        damaged = _look(inputs, group, state, (*few, np.zeros(len(few[0]))))
        if damaged >= 0:
            return ~damaged
        squares = group.norms[queries] ** 2 - 2 * score.astype(np.float64)
        _wait(state, queries[~is_best], row[~is_best], squares[~is_best])
    return stop


def look_closer(inputs: BoundsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Look at the second level of what waits from ``start`` to ``stop``, rows of this source.

    Returns what :func:`scan_bounds` does.
    """
    for first in range(start, stop, TILE):
        if not _has_room(state):
            return first
        here = slice(first, min(first + TILE, stop))
        queries, rows = state.waiting.queries[here], state.waiting.rows[here]
        squares = state.waiting.squares[here]
        error = inputs.levels.near_error[rows // LANES]
        reach = state.limits[queries] * RAISED + inputs.margins[queries] + error
        with np.errstate(over="ignore"):
            left = squares - 2 * inputs.errors[queries] <= reach**2
        queries, rows, squares = queries[left], rows[left], squares[left]
        state.tally[0] += len(rows)
        low = _second_level(inputs, group, rows, queries, squares)
        damaged = _look(inputs, group, state, (queries, rows, low))
        if damaged >= 0:
            return ~damaged
    return stop


def scan_rows(inputs: RowsInput, group: Group, state: ScanState, start: int, stop: int) -> int:
    """Scan the embeddings from row ``start`` to ``stop``; return where to go on."""
    for first in range(start, stop, TILE):
        if not _has_room(state):
            return first
        numbers = np.arange(first, min(first + TILE, stop))
        numbers = numbers[_count(inputs.excluded, numbers)]
        rows = inputs.embeddings[numbers].astype(np.float64)
        for a in np.flatnonzero(state.limits >= 0).tolist():
            true = distances(group.embeddings[a], rows)
            _keep(state, a, inputs.first + numbers, true)
    return stop


def _decoded(codes: NDArray[np.uint16]) -> Singles:
    """Return codes of 4 bits (g, m, LANES), of which four are in each of (g, m / 4, LANES)."""
    fours = np.stack([codes >> shift & 15 for shift in (0, 8, 4, 12)], axis=2)
    decoded: Singles = fours.reshape(len(codes), -1, LANES) - np.float32(MIDDLE)
    return decoded


def _wait(state: ScanState, queries: Integers, rows: Integers, squares: Doubles) -> None:
    """Let rows wait that the first level left."""
    place = slice(state.tally[2], state.tally[2] + len(rows))
    state.waiting.queries[place], state.waiting.rows[place] = queries, rows
    state.waiting.squares[place] = squares
    state.tally[2] = place.stop


def _are_best(best: Singles, queries: Integers, scores: Singles) -> NDArray[np.bool_]:
    """Say which scores are among the best so far of their queries, and note those."""
    are = np.zeros(len(scores), bool)
    k = best.shape[1]
    for a in np.unique(queries).tolist() if k else ():
        mine = np.flatnonzero(queries == a)
        joined = np.concatenate([best[a], -scores[mine]])
        order = np.argsort(joined, kind="stable")[:k]
        best[a] = joined[order[::-1]]
        are[mine[order[order >= k] - k]] = True
    return are


def _look(
    inputs: BoundsInput,
    group: Group,
    state: ScanState,
    left: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], Doubles],
) -> int:
    """Keep those of the queries' rows that are near, by their lower bounds, then their distances.

    The most likely lower the limit for the others. Returns a row whose checksum is another, or -1.
    """
    queries, rows, low = left
    for a in np.unique(queries).tolist():
        mine = np.flatnonzero(queries == a)
        for some in np.split(mine[np.argsort(low[mine])], [state.highs.shape[1]]):
            here = rows[some[low[some] <= state.limits[a] * RAISED]]
            embeddings, table = inputs.stored.embeddings[here], inputs.stored.table[here]
            wrong = here[row_sums(table["id"], embeddings) != table["sum"]]
            if len(wrong):
                return int(wrong[0])
            _keep(state, a, inputs.first + here, distances(group.embeddings[a], embeddings))
    return -1


def _count(excluded: Bits, rows: Integers) -> NDArray[np.bool_]:
    """Say which rows count: those whose bit in ``excluded`` is not set."""
    if not len(excluded):
        return np.ones(len(rows), bool)
    counts: NDArray[np.bool_] = (excluded[rows >> 3] >> (rows & 7)) & 1 == 0
    return counts


def _second_level(
    inputs: BoundsInput,
    group: Group,
    rows: NDArray[np.int32],
    queries: NDArray[np.int32],
    squares: Doubles,
) -> Doubles:
    """Return lower bounds of some rows' distances to some queries, in pairs."""
    levels = inputs.levels
    near = levels.near_rest[rows // LANES, rows % LANES] - group.near_rest[queries]
    difference = _far_codes(levels, rows) * levels.far_scale[rows // TILE] - group.far[queries]
    further = np.einsum("ij,ij->i", difference, difference)
    along = squares - near**2 + further
    rest, error = levels.far_tail[rows].astype(np.float64).T
    rho = (levels.far_scale.shape[1] + 8) * UNIT
    off, doubt = inputs.margins[queries] + error, 2 * inputs.errors[queries]
    low = along + (rest - group.far_rest[queries]) ** 2 - doubt
    bounds: Doubles = np.maximum(0, np.sqrt(np.maximum(0, low)) * (1 - rho) - off)
    return bounds


def _far_codes(levels: Levels, rows: NDArray[np.int32]) -> Singles:
    """Return the codes (n, m2 - m1) of some rows beyond the first level, before they are scaled."""
    codes = levels.far[rows]
    if levels.far.shape[1] == levels.far_scale.shape[1]:
        return codes - np.float32(WIDE_MIDDLE)
    return np.hstack([codes & 15, codes >> 4]) - np.float32(MIDDLE)


def _has_room(state: ScanState) -> bool:
    """Drop candidates beyond their limits where room is short; return whether all have room."""
    room = state.rows.shape[1]
    for a in np.flatnonzero(state.counts + TILE > room).tolist():
        real = slice(state.counts[a])
        near = state.lows[a, real] <= state.limits[a] * RAISED
        kept = int(near.sum())
        state.rows[a, :kept] = state.rows[a, real][near]
        state.lows[a, :kept] = state.lows[a, real][near]
        state.counts[a] = kept
        if 2 * kept > room:
            return False
    return True


def _keep(state: ScanState, a: int, rows: Integers, true: Doubles) -> None:
    """Add candidates of a query, and their distances where they are among the least."""
    k = state.highs.shape[1]
    if k:
        highs = np.concatenate([state.highs[a], true])
        state.highs[a] = np.partition(highs, k - 1)[k - 1 :: -1]
        state.limits[a] = min(state.limits[a], state.highs[a, 0])
    near = true <= state.limits[a] * RAISED
    place = slice(state.counts[a], state.counts[a] + int(near.sum()))
    state.rows[a, place], state.lows[a, place] = rows[near], true[near]
    state.counts[a] = place.stop
    state.tally[1] += len(rows)
