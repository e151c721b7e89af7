"""The checksums of checksum.py, compiled for the scans."""

import numpy as np

from imgsim.index.first_level import inlined
from imgsim.index.mapped_segment import StoredRows
from imgsim.index.scan_numpy import Words


@inlined
def is_whole(stored: StoredRows, row: int) -> bool:
    """Say whether the checksum of a row is what the table says."""
    noted = stored.table[row]
    equal: bool = _row_sum(stored.words[row], noted["id"], stored.weights) == noted["sum"]
    return equal


@inlined
def _row_sum(words: Words, number: int, weights: Words) -> np.uint64:
    """Return the checksum of a row, as checksum.py explains it."""
    dim, bits = len(words), np.uint64(number)
    total: np.uint64 = (bits & np.uint64(0xFFFFFFFF)) * np.uint64(weights[dim])
    total += (bits >> np.uint64(32)) * np.uint64(weights[dim + 1])
    for j in range(dim):
        total += np.uint64(words[j]) * np.uint64(weights[j])  # the processor has this product
    return total
