"""Distances of images to several queries, candidates."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.index.distance import Nearest


class Candidates(NamedTuple):
    """Query numbers, image ids and distances (n,)."""

    queries: NDArray[np.int64]
    ids: NDArray[np.int64]
    distances: NDArray[np.float64]


NONE = Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True, eq=False)
class TopKRequest:
    """Queries (q, d) and what is wanted of each: ``k`` images (None: all) within its limit (q,)."""

    queries: NDArray[np.float32]
    k: int | None
    limits: NDArray[np.float64]

    def best(self, *parts: Candidates) -> Candidates:
        """Return the first ``k`` of each query in the parts, in ascending (query, distance, id).

        With a ``k`` of None, return all in any order.
        """
        some = [part for part in parts if part is not NONE]
        if not some:
            return NONE
        queries, ids, distances = found = Candidates(*joined(*some))
        if self.k is None:
            return found
        order = _order(found)
        owners = queries[order]
        order = order[np.arange(len(order)) - np.searchsorted(owners, owners) < self.k]
        return Candidates(queries[order], ids[order], distances[order])

    def tighten(self, limits: NDArray[np.float64], best: Candidates) -> None:
        """Lower the limits of the queries that have ``k`` distances already."""
        if self.k:
            numbers = np.arange(len(self.queries))
            last = np.searchsorted(best.queries, numbers) + self.k - 1
            full = numbers[np.searchsorted(best.queries, numbers, "right") > last]
            limits[full] = np.minimum(limits[full], best.distances[last[full]])

    def split(self, best: Candidates) -> list[Nearest]:
        """Return the images of each query, in order."""
        queries, ids, distances = best
        if self.k is None:
            order = _order(best)
            queries, ids, distances = queries[order], ids[order], distances[order]
        cuts = np.searchsorted(queries, np.arange(len(self.queries) + 1)).tolist()
        return [(ids[start:stop], distances[start:stop]) for start, stop in pairwise(cuts)]


def joined(*parts: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
    """Return some columns, each in parts, as one part."""
    if len(parts) == 1:
        return parts[0]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _order(candidates: Candidates) -> NDArray[np.int64]:
    """Return the places in ascending (query, distance, id)."""
    return np.lexsort((candidates.ids, candidates.distances, candidates.queries))
