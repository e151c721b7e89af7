"""A few images that stand for all of them.

Cover: the greedy k-centre method of T. F. Gonzalez (Clustering to minimize the maximum intercluster
distance, 1985). The first pick is the image nearest to the mean, which is the medoid by squared
distances; each next one is the image that is farthest from all picks so far. The radius within
which they cover everything is at most twice the least that so many images could have.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from imgsim.curation.rows import Rows
from imgsim.findings import Pick, Sample
from imgsim.index.distance import distances
from imgsim.jobs.neighbours import paths_of
from imgsim.results import Progress

_UNIT = 2.0**-24  # of the rounding of float32
_TINY = 1e-36  # what may be lost to underflow, in squares of values
_GREAT = 1e30  # squared lengths from which products might overflow float32


class Cover:
    """How far each image is from the nearest of some picks: ``distances`` (n,) float64.

    A pick costs one product of all embeddings with it in float32. Where that cannot prove that the
    pick is no nearer than an earlier one, the distance in float64 decides.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._squares = np.empty(len(rows))
        for part, block in rows.blocks():
            self._squares[part] = np.square(block, dtype=np.float64).sum(axis=1)
        self._lengths = np.sqrt(self._squares)
        self.distances = np.full(len(rows), np.inf)

    @property
    def radius(self) -> float:
        """Return how far an image is from its nearest pick, at most."""
        return float(self.distances.max())

    def add(self, pick: int) -> None:
        """Take one more pick into account, by the number of its row."""
        centre = self._rows.embeddings[pick].copy()
        is_great = self._squares.max() > _GREAT
        for part, block in self._rows.blocks():
            known = self.distances[part]
            near = np.arange(len(block))
            if not is_great:
                products = np.einsum("ij,j->i", block, centre)  # BLAS would wait for threads
                near = np.flatnonzero(self._may_be_nearer(part, pick, products))
            known[near] = np.minimum(known[near], distances(centre, block[near]))

    def _may_be_nearer(
        self, part: slice, pick: int, products: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Say which rows may be nearer to a pick than to those before it.

        A product of d values in float32 is off by at most d u / (1 - d u) times the lengths, u
        being the unit of rounding, however it is summed (N. J. Higham, Accuracy and Stability of
        Numerical Algorithms, 3.1); twice of it also covers what is rounded in float64.
        """
        dim = self._rows.embeddings.shape[1]
        off = 2 * dim * _UNIT / (1 - dim * _UNIT) * self._lengths[part] * self._lengths[pick]
        sums = self._squares[part] + self._squares[pick]
        least = sums - 2.0 * (products.astype(np.float64) + off) - 1e-12 * sums - dim * _TINY
        apart: NDArray[np.bool_] = least > np.square(self.distances[part])
        return ~apart


def covering(rows: Rows, count: int, on_progress: Progress | None = None) -> Sample:
    """Return up to ``count`` images that cover all, by the greedy k-centre method.

    It ends sooner where the picks have every embedding. Of images that are equally far, the first
    by path is picked.
    """
    picks: list[tuple[int, float]] = []
    if not len(rows):
        return Sample(0, 0.0, ())
    cover, following = Cover(rows), _nearest_to_mean(rows)
    for done in range(1, min(count, len(rows)) + 1):
        cover.add(following)
        picks.append((following, cover.radius))
        if on_progress is not None:
            on_progress(done, min(count, len(rows)))
        if not cover.radius:
            break
        following = int(cover.distances.argmax())
    return _sample(rows, picks)


def covered(rows: Rows, picks: Iterable[int]) -> Sample:
    """Return the images of these rows as a sample."""
    cover, found = Cover(rows), list[tuple[int, float]]()
    for pick in picks:
        cover.add(pick)
        found.append((pick, cover.radius))
    return _sample(rows, found)


def _sample(rows: Rows, picks: list[tuple[int, float]]) -> Sample:
    ids = [int(rows.ids[row]) for row, _ in picks]
    paths = paths_of(rows.snapshot, ids)
    found = tuple(
        Pick(rank, number, paths[number], radius)
        for rank, (number, (_, radius)) in enumerate(zip(ids, picks, strict=True), start=1)
    )
    return Sample(len(rows), found[-1].radius if found else 0.0, found)


def _nearest_to_mean(rows: Rows) -> int:
    total = np.zeros(rows.embeddings.shape[1])
    for _, block in rows.blocks():
        total += block.sum(axis=0, dtype=np.float64)
    mean, found = total / len(rows), np.empty(len(rows))
    for part, block in rows.blocks():
        found[part] = distances(mean, block)
    return int(found.argmin())
