"""What exact means: the distance that decides, and the order."""

import numpy as np
from numpy.typing import NDArray

Block = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids (n,) int64 and their embeddings (n, d) float32."""

Nearest = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Ids (m,) int64 and their distances (m,) float64, in ascending (distance, id)."""


def distances(query: NDArray[np.floating], rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Euclidean distances (n,) of ``query`` to ``rows`` (n, d), in float64.

    ``query`` is (d,), or (n, d) with one for each row.

    The float32 values are widened, subtracted and squared without a matrix product, and summed by
    NumPy's pairwise summation along each row. So the result for a row does not depend on the other
    rows in the call, equal rows give equal results, and a row equal to the query gives 0.0.
    """
    difference = np.empty(rows.shape, np.float64)  # C order: the summation order is fixed
    np.subtract(rows, query, out=difference, dtype=np.float64)
    np.square(difference, out=difference)
    total: NDArray[np.float64] = difference.sum(axis=1)
    return np.sqrt(total, out=total)


def checked_queries(queries: NDArray[np.generic], dim: int) -> NDArray[np.float32]:
    """Return ``queries`` as (q, dim) float32, or raise ValueError if they are not that."""
    if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries must be (q, {dim}) float32, not {queries.shape} {queries.dtype}")
    checked: NDArray[np.float32] = queries.astype(np.float32, copy=False)
    if not np.isfinite(checked).all():
        raise ValueError("queries must be finite")
    return checked
