"""A checksum of each row of a segment, which costs little enough to be compared when it is read.

Let x_0, ..., x_(d-1) be the bits of a row's float32 values as unsigned integers, and x_d and
x_(d+1) the low and the high half of the id of its image. The checksum is the sum of w_j x_j modulo
2^64, with w_j = FACTOR^(j+1) modulo 2^32. These are odd, and different for each j, so one altered
bit or two always alter the sum. Other damage leaves it as it is once in about 2^32 times.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

FACTOR = 2_654_435_789
"""It is 5 modulo 8, so its powers modulo 2^32 repeat after 2^30."""

_STEP = 1_024  # rows that fit into the cache


@cache
def weights(count: int) -> NDArray[np.uint32]:
    """Return the first ``count`` weights."""
    return np.array([pow(FACTOR, j + 1, 1 << 32) for j in range(count)], np.uint32)


@cache
def _wide(count: int) -> NDArray[np.uint64]:
    return weights(count).astype(np.uint64)


def row_sums(ids: NDArray[np.int64], embeddings: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the checksums (n,) of rows with these ids (n,) and embeddings (n, d)."""
    dim = embeddings.shape[1]
    own, halves = _wide(dim + 2)[:dim], _wide(dim + 2)[dim:]
    words = embeddings.astype("<f4", copy=False).view("<u4")
    sums: NDArray[np.uint64] = (ids.astype("<i8")[:, None].view("<u4") * halves).sum(axis=1)
    for start in range(0, len(words), _STEP):
        part = words[start : start + _STEP]
        sums[start : start + _STEP] += np.einsum("ij,j->i", part, own, dtype=np.uint64)
    return sums
