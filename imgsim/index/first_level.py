"""The scores of the first level, compiled; bounds.py says what they are.

A code n_j of 4 bits stands for c_j = (n_j - 7.5) s_j, so a query q has with a row the product
sum q_j c_j = sum w_j n_j - 7.5 sum w_j, where w_j = q_j s_j. The weights are rounded to 8 bits, in
blocks of at most 64 codes that share a factor: w_j = f k_j + e_j, where k_j is an integer
from -127 to 127. The sum of k_j n_j over a block is an integer. Without VNNI it is computed in 16
bits: f is so great that the sum of 15 |k_j| fits. Then f times it is added to the score in float32,
which began with ``offset`` = -7.5 sum f k_j.

Where embeddings compress, the weights of the first block are by far the greatest, and so is what
rounding changes there. If that is more than all else, the e_j of the first block are weights of the
same codes once more, with a factor of their own, and only what is left of them is lost.

Rounding
--------
What the e_j of a block change is at most sum 7.5 |e_j|, and by Cauchy and Schwarz at most

    |sum e_j (n_j - 7.5)| = |sum (e_j / s_j) c_j| <= |e / s| |c|,

where |c| is at most the norm B of bounds.py, and at most 7.5 |s|. Where s_j is 0, c_j is 0.

The sums in float32 have ``error`` of bounds.py for the other products. The blocks and the offset
add at most 1.5 A to the magnitudes that are summed, where A = sum f 15 |k_j|, and so at most
(p + 8) 1.5 u A to the error. Both are in ``doubts``.
"""

from functools import partial
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
from imgsim.index.simd import add_to_four, add_to_one, beside, fetch

_MOST = 2_150  # of the sum of |k_j|, before the k_j are rounded: 15 (2,150 + 64 / 2) < 2^15
_AHEAD = 8  # groups of rows: the processor does not go on by itself beyond a page of memory
_LEAST = 1e-35  # a factor below is 0: float32 has no digits left

ROUNDING = {"contract", "reassoc", "nsz"}
"""What compiled code may change: the order of sums, and the sign of zero, but not infinities."""

_allocating: Any = njit(fastmath=ROUNDING)

uncounted: Any = partial(njit, fastmath=ROUNDING, _nrt=False)
"""Compiles what neither allocates nor returns an array.

numba counts the references to the arrays of all others, in numbers that all threads share, which
took a tenth of a search.
"""

_compiled: Any = uncounted()
inlined: Any = uncounted(forceinline=True)


class Scratch(NamedTuple):
    """Room for what is computed on the way to weights, as to ask for it costs more than to use it.

    ``exact`` (p,) float64 are the w_j of a query and then its e_j, and ``rounded`` (p,) its k_j;
    ``inverse`` (p,) 1 / s_j of a tile, and ``reach`` (blocks,) what |c| is at most in each block;
    ``leading`` (q,) what the e_j of the first block change.
    """

    exact: Doubles
    rounded: Integers
    inverse: Doubles
    reach: Doubles
    leading: Doubles


class Weights(NamedTuple):
    """The weights of q queries for one tile, in b groups of ``t`` queries: one, or four.

    ``pairs`` (b, p / 4, t, 2) uint32 hold the k_j of the first two of four codes, and those of the
    others, each beside what simd.py wants there. ``factors`` (b, blocks, t) are float32,
    ``offsets`` (q,) float64. For the m codes of the first block, ``rests`` (q, m) float64 are the
    e_j, and ``rest_pairs`` (b, m / 4, t, 2) and ``rest_factors`` (b, 1, t) what they are rounded
    to.
    """

    pairs: Words
    factors: Singles
    offsets: Doubles
    rests: Doubles
    rest_pairs: Words
    rest_factors: Singles
    scratch: Scratch


@_allocating
def room_for_weights(group: Group) -> Weights:
    """Return room for the weights of these queries."""
    queries, count = group.near.shape
    together = 1 if queries == 1 else 4
    groups, blocks, first = queries // together, len(group.blocks) - 1, group.blocks[1]
    return Weights(
        np.empty((groups, count // 4, together, 2), np.uint32),
        np.empty((groups, blocks, together), np.float32),
        np.empty(queries),
        np.empty((queries, first)),
        np.empty((groups, first // 4, together, 2), np.uint32),
        np.empty((groups, 1, together), np.float32),
        Scratch(
            np.empty(count),
            np.empty(count, np.int32),
            np.empty(count),
            np.empty(blocks),
            np.empty(queries),
        ),
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
    twice = _round_weights(group, levels.near_scale[tile], inputs.norm, weights, doubts)
    size, blocks = levels.near.shape[1] * LANES, group.blocks
    for number in range(start, stop):
        for line in range(0, size, 32):
            fetch(levels.near, (number + _AHEAD) * size + line)
        place = number - start
        for a in range(len(doubts)):
            rest, offset = np.float32(group.near_rest[a]), np.float32(weights.offsets[a])
            for lane in range(LANES):
                scores[place, a, lane] = (
                    levels.near_rest[number, lane] * rest - levels.half[number, lane] + offset
                )
        _add_products(
            levels.near,
            blocks,
            (weights.pairs, weights.factors),
            scores,
            (number, len(blocks) - 1, place),
        )
        if twice:
            _add_products(
                levels.near,
                blocks,
                (weights.rest_pairs, weights.rest_factors),
                scores,
                (number, 1, place),
            )


@_compiled
def _round_weights(
    group: Group, scale: Singles, norm: float, weights: Weights, doubts: Doubles
) -> bool:
    """Write the weights for codes with scales (p,), and the doubts (q,).

    Returns whether the rests of the first block are weights, too.
    """
    together, count, blocks = weights.pairs.shape[2], len(scale), group.blocks
    scratch = weights.scratch
    exact, rounded, leading = scratch.exact, scratch.rounded, scratch.leading
    _look_at_tile(scale, norm, blocks, scratch)
    for a in range(len(doubts)):
        some, place = a // together, a % together
        for j in range(count):
            exact[j] = np.float64(group.near[a, j]) * scale[j]
        weights.offsets[a], doubts[a] = 0.0, 0.0
        for block in range(len(blocks) - 1):
            factor, offset, lost, doubt = _round(blocks, block, scratch)
            weights.factors[some, block, place] = factor
            weights.offsets[a] += offset
            doubts[a] += (count + 8) * doubt
            if block:
                doubts[a] += lost
            else:
                leading[a] = lost
        for j in range(blocks[1]):
            weights.rests[a, j] = exact[j]
        _write_pairs(rounded, weights.pairs, some, place)
    if leading.sum() <= doubts.sum():
        doubts += leading
        return False
    for a in range(len(doubts)):
        some, place = a // together, a % together
        for j in range(blocks[1]):
            exact[j] = weights.rests[a, j]
        factor, offset, lost, doubt = _round(blocks, 0, scratch)
        weights.rest_factors[some, 0, place] = factor
        weights.offsets[a] += offset
        doubts[a] += lost + (count + 8) * doubt
        _write_pairs(rounded, weights.rest_pairs, some, place)
    return True


@inlined
def _look_at_tile(scale: Singles, norm: float, blocks: Integers, scratch: Scratch) -> None:
    """Write what is the same for all queries."""
    for block in range(len(scratch.reach)):
        longest = 0.0
        for j in range(blocks[block], blocks[block + 1]):
            one = np.float64(scale[j])
            scratch.inverse[j] = 1 / one if one > 0 else 0.0
            longest += one * one
        scratch.reach[block] = min(norm, MIDDLE * np.sqrt(longest))


@inlined
def _write_pairs(rounded: Integers, pairs: Words, some: int, place: int) -> None:
    """Write the k_j (p,) of one query: signed bytes, in pairs."""
    for i in range(pairs.shape[1]):
        lower, upper = _pair(rounded, 4 * i), _pair(rounded, 4 * i + 2)
        pairs[some, i, place, 0] = beside(lower, upper)
        pairs[some, i, place, 1] = beside(upper, lower)


@inlined
def _pair(rounded: Integers, j: int) -> np.uint32:
    pair = (rounded[j] & 255) | (rounded[j + 1] & 255) << 8
    return np.uint32(pair)


@inlined
def _factor(greatest: float, total: float) -> float:
    """Return the factor of a block of weights, a float32: 0 where it would be hardly one."""
    factor = np.float64(np.float32(max(greatest / 127, total / _MOST)))
    return factor if factor >= _LEAST else 0.0


@inlined
def _round(blocks: Integers, block: int, scratch: Scratch) -> tuple[float, float, float, float]:
    """Write the k_j of a block, and leave the e_j in ``exact``.

    Returns the factor, what the block adds to the offset, what the e_j change at most, and 1.5 u
    times what the block adds to A.
    """
    exact, rounded = scratch.exact, scratch.rounded
    start, stop = np.uint64(blocks[block]), np.uint64(blocks[block + 1])
    greatest, total = 0.0, 0.0
    for j in range(start, stop):
        greatest = max(greatest, abs(exact[j]))
        total += abs(exact[j])
    factor = _factor(greatest, total)
    times = 1 / factor if factor > 0 else 0.0
    total, magnitude, lost, moved = 0.0, 0.0, 0.0, 0.0
    for j in range(start, stop):
        whole = np.rint(exact[j] * times)
        rest = exact[j] - whole * factor
        rounded[j], exact[j] = np.int32(whole), rest
        total += whole
        magnitude += abs(whole)
        lost += abs(rest)
        moved += (rest * scratch.inverse[j]) ** 2
    change = min(MIDDLE * lost, np.sqrt(moved) * scratch.reach[block])
    doubt = 1.5 * UNIT * 15 * factor * magnitude
    return factor, -MIDDLE * factor * total, 1.000001 * change, doubt


@inlined
def _add_products(
    codes: Integers,
    blocks: Integers,
    rounded: tuple[Words, Singles],
    scores: Singles,
    which: tuple[int, int, int],
) -> None:
    """Add products of codes (n, p / 4, LANES) and weights to scores (s, q, LANES).

    ``which`` are the n, how many blocks, and the s that are meant.
    """
    pairs, factors = rounded
    number, count, place = which
    for group in range(len(pairs)):
        if pairs.shape[2] == 1:
            add_to_one(codes, blocks, pairs, factors, scores, (number, count, group, place))
        else:
            add_to_four(codes, blocks, pairs, factors, scores, (number, count, group, place))
