"""What the compiled scans do with the rows that are left."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.index.checksum_numba import is_whole
from imgsim.index.first_level import inlined
from imgsim.index.scan_numpy import RAISED, UNIT, Bits, BoundsInput, Group, ScanState, Singles


@inlined
def has_room(state: ScanState, more: int) -> bool:
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
def keep(state: ScanState, a: int, row: int, low: float, high: float) -> None:
    """Add a candidate of query ``a``, and its upper bound if that is among the least."""
    state.rows[a, state.counts[a]] = row
    state.lows[a, state.counts[a]] = low
    state.counts[a] += 1
    if state.highs.shape[1]:
        sink(state.highs[a], high)
        state.limits[a] = min(state.limits[a], state.highs[a, 0])


@inlined
def sink(heap: NDArray[Any], value: float) -> None:
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


@inlined
def is_excluded(excluded: Bits, row: int) -> bool:
    """Say whether the bit of a row that does not count is set."""
    return len(excluded) > 0 and (excluded[row >> 3] >> (row & 7)) & 1 == 1


@inlined
def look(inputs: BoundsInput, group: Group, state: ScanState, a: int, row: int) -> bool:
    """Make a row a candidate of query ``a``, by its square in float32.

    Returns whether its checksum is that of the table; if not, it is none.
    """
    if not is_whole(inputs.stored, row):
        return False
    embedding = group.embeddings[a]
    square = np.float64(square_of_difference(inputs.stored.embeddings[row], embedding))
    dim = len(embedding)
    low, high = around(square, (dim + 8) * UNIT, dim * 2.0**-120)
    state.tally[1] += 1
    keep(state, a, inputs.first + row, low, high)
    return True


@inlined
def around(square: float, rho: float, lost: float) -> tuple[float, float]:
    """Return the least and the greatest distance that a square in float32 can stand for."""
    low = np.sqrt(max(0.0, square - lost)) * (1 - rho) if square < np.inf else 0.0
    return low, np.sqrt(square + lost) * (1 + rho)


@inlined
def square_of_difference(x: Singles, y: Singles) -> np.float32:
    """Return the square of the distance of x (d,) to y (d,)."""
    total = np.float32(0)
    for j in range(len(y)):
        difference = x[j] - y[j]
        total += difference * difference
    return total
