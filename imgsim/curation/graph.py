"""The graph of the nearest neighbours of images, as arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim.index.gallery import Searchable
from imgsim.jobs.neighbours import nearest_others
from imgsim.results import Progress

_AT_ONCE = 1_024


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """The nearest others of each of n images.

    ``ids`` (n,) int64 are the images, ``nearest`` (n, k) int32 rows of these arrays, nearest first,
    and ``distances`` (n, k) float32 Euclidean.
    """

    ids: NDArray[np.int64]
    nearest: NDArray[np.int32]
    distances: NDArray[np.float32]

    def ordered(self, order: NDArray[np.int64]) -> "NeighbourGraph":
        """Return the same graph with row ``order[i]`` as row i."""
        places = np.empty(len(order), np.int32)
        places[order] = np.arange(len(order), dtype=np.int32)
        return NeighbourGraph(self.ids[order], places[self.nearest[order]], self.distances[order])


def neighbour_graph(gallery: Searchable, k: int, on_progress: Progress) -> NeighbourGraph:
    """Return the exact graph of the images in a gallery without a radius; k is at most n - 1."""
    n = len(gallery)
    k = max(0, min(k, n - 1))
    ids = np.empty(n, np.int64)
    near = np.empty((n, k), np.int64)
    distances = np.empty((n, k), np.float32)
    start = 0
    for numbers, rows in gallery.blocks():
        for at in range(0, len(numbers) if k else 0, _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            answer = nearest_others(gallery, numbers[some], rows[some], k)
            for row, (theirs, true) in enumerate(answer.nearest, start=start + at):
                near[row], distances[row] = theirs, true
            on_progress(start + at + len(answer.nearest), n)
        ids[start : start + len(numbers)] = numbers
        start += len(numbers)
    order = np.argsort(ids)
    rows_of = order[np.searchsorted(ids, near, sorter=order)] if k else near
    return NeighbourGraph(ids, rows_of.astype(np.int32), distances)
