"""The scores of the first level, compiled; bounds.py says what they are.

A code n_j of 4 bits stands for c_j = (n_j - 7.5) s_j, so a query q has with a row the product
sum q_j c_j = sum w_j n_j - 7.5 sum w_j, where w_j = q_j s_j. The weights are rounded to 8 bits, in
blocks of at most 64 codes that share a factor: w_j = f k_j + e_j, where k_j is an integer
from -127 to 127. The sum of k_j n_j over a block is an integer, computed in 16 bits: f is so great
that the sum of 15 |k_j| fits. Then f times it is added to the score in float32, which began with
``offset`` = -7.5 sum f k_j.

Rounding
--------
What the e_j of a block change is at most sum 7.5 |e_j|, and by Cauchy and Schwarz at most

    |sum e_j (n_j - 7.5)| = |sum (e_j / s_j) c_j| <= |e / s| |c|,

where |c| is at most the norm B of bounds.py, and at most 7.5 |s|. Where s_j is 0, c_j is 0.

The sums in float32 have ``error`` of bounds.py for the other products. The blocks and the offset
add at most 1.5 A to the magnitudes that are summed, where A = sum f 15 |k_j|, and so at most
(p + 8) 1.5 u A to the error. Both are in ``doubts``.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from imgsim.index.bounds import LANES, MIDDLE, TILE
from imgsim.index.scan_numpy import (
    UNIT,
    BoundsInput,
    Doubles,
    Group,
    Integers,
    Singles,
    Words,
)
from imgsim.index.simd import add_to_four, add_to_one

_MOST = 2_150  # of the sum of |k_j|, before the k_j are rounded: 15 (2,150 + 64 / 2) < 2^15
_LEAST = 1e-35  # a factor below is 0: float32 has no digits left

ROUNDING = {"contract", "reassoc", "nsz"}
"""What compiled code may change: the order of sums, and the sign of zero, but not infinities."""

_compiled: Any = njit(fastmath=ROUNDING)
inlined: Any = njit(fastmath=ROUNDING, forceinline=True)


class Weights(NamedTuple):
    """The weights of q queries for one tile, in b groups of ``t`` queries: one, or four.

    ``pairs`` (b, p / 4, t, 2) uint32 hold the k_j of the first two of four codes, twice, and those
    of the others. ``factors`` (b, blocks, t) are float32, ``offsets`` (q,) float64.
    """

    pairs: Words
    factors: Singles
    offsets: Doubles


@inlined
def room_for_weights(group: Group) -> Weights:
    """Return room for the weights of these queries."""
    queries, count = group.near.shape
    together = 1 if queries == 1 else 4
    groups, blocks = queries // together, len(group.blocks) - 1
    return Weights(
        np.empty((groups, count // 4, together, 2), np.uint32),
        np.empty((groups, blocks, together), np.float32),
        np.empty(queries),
    )


@_compiled
def write_scores(
    inputs: BoundsInput, group: Group, tile: int, weights: Weights, scores: Singles, doubts: Doubles
) -> None:
    """Write the scores (g, q, LANES) of a tile, and what they can be wrong by (q,) besides errors.

    ``weights`` is room for them.
    """
    levels = inputs.levels
    start = tile * (TILE // LANES)
    stop = min(start + TILE // LANES, len(levels.half))
    _round_weights(group, levels.near_scale[tile], inputs.norm, weights, doubts)
    for number in range(start, stop):
        some = scores[number - start]
        for a in range(len(some)):
            rest, offset = np.float32(group.near_rest[a]), np.float32(weights.offsets[a])
            for lane in range(LANES):
                some[a, lane] = (
                    levels.near_rest[number, lane] * rest - levels.half[number, lane] + offset
                )
        _add_products(levels.near[number], group.blocks, weights, some)


@_compiled
def _round_weights(
    group: Group, scale: Singles, norm: float, weights: Weights, doubts: Doubles
) -> None:
    """Write the weights for codes with scales (p,), and the doubts (q,)."""
    together, count = weights.pairs.shape[2], len(scale)
    exact, rounded = np.empty(count), np.empty(count)
    for a in range(len(doubts)):
        some, place = a // together, a % together
        for j in range(count):
            exact[j] = np.float64(group.near[a, j]) * scale[j]
        weights.offsets[a], doubts[a] = 0.0, 0.0
        for block in range(len(group.blocks) - 1):
            here = slice(group.blocks[block], group.blocks[block + 1])
            factor = _factor(exact[here])
            weights.factors[some, block, place] = factor
            total, magnitude, doubt = _rounded(
                exact[here], factor, scale[here], norm, rounded[here]
            )
            weights.offsets[a] -= MIDDLE * factor * total
            doubts[a] += doubt + (count + 8) * 1.5 * UNIT * 15 * factor * magnitude
        for i in range(count // 4):
            weights.pairs[some, i, place, 0] = _pair(rounded[4 * i], rounded[4 * i + 1])
            weights.pairs[some, i, place, 1] = _pair(rounded[4 * i + 2], rounded[4 * i + 3])


@inlined
def _factor(exact: Doubles) -> float:
    """Return the factor of a block of weights, a float32: 0 where it would be hardly one."""
    greatest, total = 0.0, 0.0
    for j in range(len(exact)):
        greatest = max(greatest, abs(exact[j]))
        total += abs(exact[j])
    factor = np.float64(np.float32(max(greatest / 127, total / _MOST)))
    return factor if factor >= _LEAST else 0.0


@inlined
def _rounded(
    exact: Doubles, factor: float, scale: Singles, norm: float, rounded: Doubles
) -> tuple[float, float, float]:
    """Write a block of k_j; return their sum, that of their magnitudes, and what the e_j change."""
    total, magnitude, lost, moved, longest = 0.0, 0.0, 0.0, 0.0, 0.0
    times = 1 / factor if factor > 0 else 0.0
    for j in range(len(exact)):
        rounded[j] = np.rint(exact[j] * times)
        total += rounded[j]
        magnitude += abs(rounded[j])
        off = exact[j] - rounded[j] * factor
        lost += abs(off)
        if scale[j] > 0:
            moved += (off / scale[j]) ** 2
        longest += np.float64(scale[j]) ** 2
    change = min(MIDDLE * lost, np.sqrt(moved) * min(norm, MIDDLE * np.sqrt(longest)))
    return total, magnitude, 1.000001 * change


@inlined
def _pair(first: float, second: float) -> np.uint32:
    """Return two signed bytes, twice."""
    bits = (np.int64(first) & 255) | (np.int64(second) & 255) << 8
    return np.uint32(bits | bits << 16)


@_compiled
def _add_products(codes: Integers, blocks: Integers, weights: Weights, scores: Singles) -> None:
    """Add the products of codes (p / 4, LANES) and weights to scores (q, LANES)."""
    if len(scores) == 1:
        add_to_one(codes, blocks, weights.pairs[0], weights.factors[0], scores)
        return
    for group in range(len(weights.pairs)):
        some = scores[4 * group : 4 * group + 4]
        add_to_four(codes, blocks, weights.pairs[group], weights.factors[group], some)
