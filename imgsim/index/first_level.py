"""The scores of the first level, compiled; bounds.py says what they are.

A code n_j of 4 bits stands for c_j = (n_j - 7.5) s_j, so a query q has with a row the product
sum q_j c_j = sum w_j n_j - 7.5 sum w_j, where w_j = q_j s_j. The weights are rounded to 8 bits, in
blocks of at most 64 codes that share a factor: w_j = f k_j + e_j, where k_j is an integer
from -127 to 127. The sum of k_j n_j over a block is an integer. Without VNNI it is computed in 16
bits: f is so great that the sum of 15 |k_j| fits. Then f times it is added to the score in float32,
which began with the offsets -7.5 sum f k_j.

Where embeddings compress, the weights of the first block are by far the greatest, and so is what
rounding changes there. If that is more than all else, the e_j of the first block are weights of the
same codes once more, with a factor of their own, and only what is left of them is lost.

Scales are those of a tile, so weights are rounded for each tile and query, in lanes of vectors.
There are 16 of those at least: a single query takes them for 16 tiles.

Rounding
--------
What the e_j of a block change is at most sum 7.5 |e_j|, and by Cauchy and Schwarz at most

    |sum e_j (n_j - 7.5)| = |sum (e_j / s_j) c_j| <= |e / s| |c|,

where |c| is at most the norm B of bounds.py, and at most 7.5 |s|. Where s_j is 0, so are c_j and
e_j. The second is not used where an s_j is below 1e-30, but not 0; else |e_j / s_j| <= |q_j|, whose
squares float32 holds, and to their sum 1e-36 is added for those that are too small.

The sums in float32 have ``error`` of bounds.py for the other products. The blocks and the offset
add at most 1.5 A to the magnitudes that are summed, where A = sum f 15 |k_j|, and so at most
(p + 8) 1.5 u A to the error.

The w_j and e_j are float32, too. A w_j is u |w_j| wrong, and e_j is wrong by u (|f k_j| + |e_j|)
more; |w_j| and |e_j| are at most f (|k_j| + 0.51) and 0.51 f. As the sum of |k_j| over a block of
at most 64 is at least 127, 7.5 times the sum of these is below 1.3 u A. Where f is 0, it is
relative to e_j, as are the sums of at most 64 values: what the e_j change is raised by 1e-5. What
underflow adds is part of ``error``. So ``doubts`` are (p + 10) 1.5 u A and what the e_j change.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from imgsim.index.bounds import LANES, MIDDLE, TILE
from imgsim.index.projection import BLOCK
from imgsim.index.rounding import TOGETHER, round_lanes
from imgsim.index.scan_numpy import (
    UNIT,
    BoundsInput,
    Doubles,
    Group,
    Integers,
    Singles,
    Words,
)
from imgsim.index.simd import add_to_four, add_to_one, fetch

_RAISED = 1.00001  # sums of at most 64 numbers in float32 are less than that wrong
_AHEAD = 8  # groups of rows, as the processor does not go on beyond a page of memory
_SMALL = 1e-30  # a scale below has no inverse that can be squared

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


class Weights(NamedTuple):
    """The weights of q queries for the next t tiles, in l lanes: for each tile the queries.

    l is a multiple of TOGETHER, and lanes that are left over have weights of 0. ``near`` (p, l)
    float32 are the coordinates of the queries in their lanes. ``pairs`` (p / 4, l, 2) uint32 are
    the k_j as rounding.py writes them, ``factors`` (blocks, l) and ``offsets`` (l,) float32, and
    ``doubts`` (l,) what scores can be wrong by besides errors. For the m codes of the first block,
    ``rest_pairs`` (m / 4, l, 2) and ``rest_factors`` (1, l) are what their e_j are rounded to, and
    ``twice`` (t,) says for which tiles they are used. ``exact`` and ``inverse`` (BLOCK, l),
    ``over`` (BLOCK,), ``reach`` (l,) and ``sums`` (blocks + 1, 4, l) are room for what is computed
    on the way.
    """

    near: Singles
    pairs: Words
    factors: Singles
    offsets: Singles
    doubts: Doubles
    rest_pairs: Words
    rest_factors: Singles
    twice: NDArray[np.bool_]
    exact: Singles
    inverse: Singles
    over: Singles
    reach: Singles
    sums: Singles


@_allocating
def room_for_weights(group: Group) -> Weights:
    """Return room for the weights of these queries."""
    queries, count = group.near.shape
    blocks, tiles = len(group.blocks) - 1, max(1, TOGETHER // queries)
    lanes = -(-tiles * queries // TOGETHER) * TOGETHER
    near = np.zeros((count, lanes), np.float32)
    for a in range(queries):
        for j in range(count):
            near[j, a : tiles * queries : queries] = group.near[a, j]
    return Weights(
        near,
        np.empty((count // 4, lanes, 2), np.uint32),
        np.empty((blocks, lanes), np.float32),
        np.empty(lanes, np.float32),
        np.empty(lanes),
        np.empty((group.blocks[1] // 4, lanes, 2), np.uint32),
        np.empty((1, lanes), np.float32),
        np.empty(tiles, np.bool_),
        np.zeros((BLOCK, lanes), np.float32),
        np.zeros((BLOCK, lanes), np.float32),
        np.empty(BLOCK, np.float32),
        np.zeros(lanes, np.float32),
        np.empty((blocks + 1, 4, lanes), np.float32),
    )


@_compiled
def round_weights(
    inputs: BoundsInput, group: Group, tiles: tuple[int, int], weights: Weights
) -> None:
    """Write the weights for the first of those tiles, as many as there is room for."""
    blocks, exact, inverse, reach = group.blocks, weights.exact, weights.inverse, weights.reach
    last, sums = len(blocks) - 1, weights.sums
    count = min(len(weights.twice), tiles[1] - tiles[0])
    for block in range(last):
        start, stop = blocks[block], blocks[block + 1]
        _spread(inputs, weights, (tiles[0], count, len(group.norms)), (start, stop))
        for lane in range(0, len(reach), TOGETHER):
            which = stop - start, start // 4, block, lane
            round_lanes(exact, inverse, reach, weights.pairs, sums, which)
            if block == 0:
                which = stop - start, 0, last, lane
                round_lanes(exact, inverse, reach, weights.rest_pairs, sums, which)
    _add_up(weights, count, len(group.norms))


@inlined
def _spread(
    inputs: BoundsInput, weights: Weights, which: tuple[int, int, int], block: tuple[int, int]
) -> None:
    """Write the w_j of a block and what depends on the scales, in the lanes of each tile.

    ``which`` are the first tile, how many there are, and how many queries.
    """
    tile, count, queries = which
    start, stop = block
    exact, inverse, over = weights.exact, weights.inverse, weights.over
    for place in range(count):
        scale = inputs.levels.near_scale[tile + place]
        first, beyond = np.uint64(place * queries), np.uint64((place + 1) * queries)
        longest, small = 0.0, np.int64(0)
        for j in range(start, stop):
            one = scale[j]
            longest += np.float64(one) * np.float64(one)
            small += np.int64(one > 0) & np.int64(one < np.float32(_SMALL))
            over[j - start] = np.float32(1) / max(one, np.float32(_SMALL))
        for j in range(start, stop):
            if queries == 1:  # a loop takes longer
                exact[j - start, place] = weights.near[j, place] * scale[j]
                inverse[j - start, place] = over[j - start]
                continue
            for lane in range(first, beyond):
                exact[j - start, lane] = weights.near[j, lane] * scale[j]
                inverse[j - start, lane] = over[j - start]
        most = np.inf if small else min(inputs.norm, MIDDLE * np.sqrt(longest))
        for lane in range(first, beyond):
            weights.reach[lane] = most


@inlined
def _add_up(weights: Weights, count: int, queries: int) -> None:
    """Write factors, offsets and doubts, and for which tiles the rests are weights, too."""
    sums, blocks = weights.sums, len(weights.factors)
    unsure = 1.5 * UNIT * (len(weights.near) + 10)
    for place in range(count):
        leading, others = 0.0, 0.0
        for lane in range(place * queries, (place + 1) * queries):
            offset, doubt = 0.0, 0.0
            for block in range(blocks):
                weights.factors[block, lane] = sums[block, 0, lane]
                offset += sums[block, 1, lane]
                doubt += unsure * sums[block, 3, lane]
                if block:
                    doubt += _RAISED * sums[block, 2, lane]
            weights.rest_factors[0, lane] = sums[blocks, 0, lane]
            weights.offsets[lane], weights.doubts[lane] = offset, doubt
            leading += _RAISED * sums[0, 2, lane]
            others += doubt
        twice = weights.twice[place] = leading > others
        for lane in range(place * queries, (place + 1) * queries):
            if twice:
                weights.offsets[lane] += sums[blocks, 1, lane]
                weights.doubts[lane] += unsure * sums[blocks, 3, lane]
            weights.doubts[lane] += _RAISED * sums[blocks if twice else 0, 2, lane]


@_compiled
def write_scores(
    inputs: BoundsInput, group: Group, tile: int, place: int, weights: Weights, scores: Singles
) -> None:
    """Write the scores (g, q, LANES) of a tile, which is that ``place`` of the weights."""
    levels, queries = inputs.levels, len(group.norms)
    start = tile * (TILE // LANES)
    stop = min(start + TILE // LANES, len(levels.half))
    size, count, lane = levels.near.shape[1] * LANES, len(weights.factors), place * queries
    for number in range(start, stop):
        for line in range(0, size if queries > 1 else 0, 32):  # for one, simd.py does so
            fetch(levels.near, (number + _AHEAD) * size + line)
        at = number - start
        for a in range(queries):
            rest, offset = np.float32(group.near_rest[a]), weights.offsets[lane + a]
            for row in range(LANES):
                scores[at, a, row] = (
                    levels.near_rest[number, row] * rest - levels.half[number, row] + offset
                )
        rounded = weights.pairs, weights.factors
        _add_products(levels.near, group.blocks, rounded, scores, (number, count, lane, at))
        if weights.twice[place]:
            rounded = weights.rest_pairs, weights.rest_factors
            _add_products(levels.near, group.blocks, rounded, scores, (number, 1, lane, at))


@inlined
def _add_products(
    codes: Integers,
    blocks: Integers,
    rounded: tuple[Words, Singles],
    scores: Singles,
    which: tuple[int, int, int, int],
) -> None:
    """Add products of codes (n, p / 4, LANES) and weights to scores (s, q, LANES).

    ``which`` are the n, how many blocks, the first lane, and the s that are meant.
    """
    pairs, factors = rounded
    number, count, lane, at = which
    if scores.shape[1] == 1:
        add_to_one(codes, blocks, pairs, factors, scores, (number, count, lane, at, 0))
        return
    for a in range(0, scores.shape[1], 4):
        add_to_four(codes, blocks, pairs, factors, scores, (number, count, lane + a, at, a))
