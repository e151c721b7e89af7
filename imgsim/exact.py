"""Exact k-nearest-neighbour search over arrays: float64 distances, (distance, id) order."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import StoreError

Block = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids (n,) int64 and their vectors (n, d) float32."""

Nearest = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Ids (m,) int64 and their distances (m,) float64, in ascending (distance, id)."""


def distances(query: NDArray[np.floating], rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Euclidean distances (n,) of ``query`` (d,) to ``rows`` (n, d), in float64.

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
    """Return ``queries`` as (q, dim) float32, or raise :class:`StoreError` if they are not that."""
    if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != dim:
        raise StoreError(f"queries must be (q, {dim}) float32, not {queries.shape} {queries.dtype}")
    checked: NDArray[np.float32] = queries.astype(np.float32, copy=False)
    if not np.isfinite(checked).all():
        raise StoreError("queries must be finite")
    return checked


def scan(
    queries: NDArray[np.float32],
    blocks: Iterable[Block],
    k: int,
    best: Sequence[Nearest] | None = None,
) -> list[Nearest]:
    """Return the ``k`` nearest of all ``blocks``, and of ``best``, for each of ``queries`` (q, d).

    Each query gets min(k, n) neighbours in ascending (distance, id). The memory needed is that of
    one block in float64 and of the results, whatever the number of blocks.
    """
    if k < 1:
        raise StoreError(f"k must be at least 1, not {k}")
    wide = queries.astype(np.float64)
    none = np.empty(0, np.int64), np.empty(0, np.float64)
    nearest: list[Nearest] = [none for _ in queries] if best is None else list(best)
    for ids, rows in blocks:
        wide_rows = rows.astype(np.float64)
        for i, query in enumerate(wide):
            nearest[i] = merge(nearest[i], ids, distances(query, wide_rows), k)
    return nearest


def merge(best: Nearest, ids: NDArray[np.int64], found: NDArray[np.float64], k: int) -> Nearest:
    """Return the first ``k`` of ``best`` and of ids with their distances, together."""
    limit = best[1][-1] if len(best[1]) == k else np.inf
    if len(found) > k:
        limit = min(limit, np.partition(found, k - 1)[k - 1])
    near = found <= limit  # <= keeps the ties, of which the least ids win
    all_ids = np.concatenate([best[0], ids[near]])
    all_distances = np.concatenate([best[1], found[near]])
    order = np.lexsort((all_ids, all_distances))[:k]
    return all_ids[order], all_distances[order]
