"""Walks over the rows of a segment: which of them can be among the nearest.

A walk keeps, for each query of a group, the rows whose lower bound does not exceed the query's
limit. The limit shrinks to the k-th least of the upper bounds met so far. bounds.py derives the
bounds and what rounding they allow for.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.basis import Basis
from imgsim.bounds import LANES, TILE
from imgsim.exact import distances

RAISED = 1 + 1e-10
"""What a limit is raised by before a bound is compared with it."""

UNIT = 2.0**-24
"""The unit roundoff of float32."""

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Codes = NDArray[np.int8]


class Segment(NamedTuple):
    """What is walked over: ``ids`` (n,), -1 where no image is; ``first`` is row 0's number."""

    rows: Any  # Levels, or vectors (n, d) float32
    ids: Integers
    first: int


class Group(NamedTuple):
    """Some queries of dimension d, a multiple of 4 in number unless it is one.

    ``vectors`` (q, d), ``near`` (q, m1) and ``far`` (q, m2 - m1) are float32; the lengths
    ``near_rest``, ``far_rest`` and ``norms`` (q,) are float64, as are ``margins`` and ``errors``
    (q,), which belong to one segment.
    """

    vectors: Singles
    near: Singles
    far: Singles
    near_rest: Doubles
    far_rest: Doubles
    norms: Doubles
    margins: Doubles
    errors: Doubles


class Found(NamedTuple):
    """What walks have found for each of q queries.

    ``limits`` (q,) are the distances that a row must not exceed, negative for no query; ``highs``
    (q, k) the least upper bounds, the greatest first; ``rows`` and ``lows`` (q, c) candidates and
    their lower bounds, ``counts`` (q,) of them real; ``tally`` (2,) how many rows the first and the
    second level left.
    """

    limits: Doubles
    highs: Doubles
    rows: Integers
    lows: Doubles
    counts: Integers
    tally: Integers


def project(basis: Basis, queries: Singles) -> tuple[Doubles, Doubles]:
    """Return what :meth:`Basis.project` does."""
    along, squares = basis.project(queries)
    return along, squares


def walk_bounds(segment: Segment, group: Group, found: Found, start: int, stop: int) -> int:
    """Walk over the bounds of the rows from ``start``, a multiple of TILE, to ``stop``.

    Returns where to go on: ``stop``, or before if a query has no room for more candidates.
    """
    levels = segment.rows
    for first in range(start, stop, TILE):
        if not _has_room(found):
            return first
        rows, tile = min(TILE, stop - first), first // TILE
        groups = slice(first // LANES, -(-(first + rows) // LANES))
        weights = group.near * levels.near_scale[tile]
        scores = weights @ levels.near[groups].astype(np.float32)  # (groups, queries, LANES)
        scores += group.near_rest[:, None].astype(np.float32) * levels.near_rest[groups, None]
        scores -= levels.half[groups, None]
        reach = found.limits * RAISED + group.margins + levels.near_error[groups, None]
        with np.errstate(over="ignore"):  # where nothing is out of reach
            threshold = (group.norms**2 - reach**2) / 2 - group.errors
        number, queries, lane = np.nonzero(scores >= threshold[:, :, None])
        row = first + number * LANES + lane
        here = (row < stop) & (found.limits[queries] >= 0)
        here[here] = segment.ids[row[here]] >= 0
        left = row[here], queries[here], scores[number, queries, lane][here].astype(np.float64)
        found.tally[0] += len(left[0])
        low, high = _second_level(segment, group, *left)
        _keep(found, left[1], segment.first + left[0], low, high)
    return stop


def walk_rows(segment: Segment, group: Group, found: Found, start: int, stop: int) -> int:
    """Walk over the vectors from row ``start`` to ``stop``; return where to go on."""
    for first in range(start, stop, TILE):
        if not _has_room(found):
            return first
        ids = segment.ids[first : min(first + TILE, stop)]
        rows = segment.rows[first : first + len(ids)][ids >= 0].astype(np.float64)
        numbers = segment.first + first + np.flatnonzero(ids >= 0)
        for a in np.flatnonzero(found.limits >= 0).tolist():
            true = distances(group.vectors[a], rows)
            _keep(found, np.full(len(true), a), numbers, true, true)
    return stop


def look(
    rows: Singles, numbers: Integers, vectors: Singles, owners: Integers
) -> tuple[Doubles, Doubles]:
    """Return lower and upper bounds of the distances of some rows to vectors, in pairs.

    They are as good as can be had for less than the distances cost: here, none.
    """
    return np.zeros(len(numbers)), np.full(len(numbers), np.inf)


def _second_level(
    segment: Segment, group: Group, rows: Integers, queries: Integers, scores: Doubles
) -> tuple[Doubles, Doubles]:
    """Return the lower and upper bounds of some rows' distances to some queries, in pairs."""
    levels = segment.rows
    near = levels.near_rest[rows // LANES, rows % LANES] - group.near_rest[queries]
    difference = levels.far[rows] * levels.far_scale[rows // TILE] - group.far[queries]
    further = np.einsum("ij,ij->i", difference, difference)
    along = group.norms[queries] ** 2 - 2 * scores - near**2 + further
    rest, error = levels.far_tail[rows].astype(np.float64).T
    rho = (levels.far.shape[1] + 8) * UNIT
    off, doubt = group.margins[queries] + error, 2 * group.errors[queries]
    low = along + (rest - group.far_rest[queries]) ** 2 - doubt
    high = along + (rest + group.far_rest[queries]) ** 2 + doubt
    return (
        np.maximum(0, np.sqrt(np.maximum(0, low)) * (1 - rho) - off),
        np.sqrt(np.maximum(0, high)) * (1 + rho) + off,
    )


def _has_room(found: Found) -> bool:
    """Drop candidates beyond their limits where room is short; return whether all have room."""
    room = found.rows.shape[1]
    for a in np.flatnonzero(found.counts + TILE > room).tolist():
        real = slice(found.counts[a])
        near = found.lows[a, real] <= found.limits[a] * RAISED
        kept = int(near.sum())
        found.rows[a, :kept] = found.rows[a, real][near]
        found.lows[a, :kept] = found.lows[a, real][near]
        found.counts[a] = kept
        if 2 * kept > room:
            return False
    return True


def _keep(found: Found, queries: Integers, rows: Integers, low: Doubles, high: Doubles) -> None:
    """Add candidates of some queries, and their upper bounds where they are among the least."""
    k = found.highs.shape[1]
    for a in np.unique(queries).tolist():
        mine = queries == a
        if k:
            highs = np.concatenate([found.highs[a], high[mine]])
            found.highs[a] = np.partition(highs, k - 1)[k - 1 :: -1]
            found.limits[a] = min(found.limits[a], found.highs[a, 0])
        mine &= low <= found.limits[a] * RAISED
        place = slice(found.counts[a], found.counts[a] + int(mine.sum()))
        found.rows[a, place], found.lows[a, place] = rows[mine], low[mine]
        found.counts[a] = place.stop
        found.tally[1] += place.stop - place.start
