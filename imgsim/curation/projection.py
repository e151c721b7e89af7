"""Embeddings in a plane: two principal directions, and from there t-SNE on the neighbour graph.

t-SNE is that of openTSNE, with the affinities of Böhm, Berens and Kobak ("Attraction-repulsion
spectrum in neighbor embeddings", 2022): each of the k nearest neighbours counts alike. Repulsion of
many images is interpolated (Linderman and others, 2019): a step takes time in proportion to them.
"""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import ExtraMissing
from imgsim.findings import MapMethod
from imgsim.index.gallery import Searchable
from imgsim.results import Progress

NEAREST = 10
"""How many neighbours of an image a map is made from, and is measured by."""

_SAMPLED = 10_000  # embeddings that the principal directions are those of
_COUNTED = 1_000  # images whose neighbours are counted
_FEWEST = 50  # images that t-SNE arranges; fewer stay where the principal directions put them
_STEPS = {"linear": (0, 0), "fast": (125, 125), "good": (250, 500)}
_EXAGGERATION = 12.0  # of attraction in the first steps, as in the method's articles
_INTERPOLATED = 2_000  # images from which on that is faster than a tree
_SHARED = 20_000  # images from which on threads share the work; of few, they wait for each other
_EVERY = 5  # steps between two calls for progress


def refuse_without(method: MapMethod) -> None:
    """Raise :class:`ExtraMissing` if a method needs a package that is not installed."""
    if method != "linear" and find_spec("openTSNE") is None:
        raise ExtraMissing(
            f"the layout {method!r} needs openTSNE: `pip install 'imgsim[map]'`, or choose linear"
        )


def principal_positions(gallery: Searchable, seed: int) -> NDArray[np.float32]:
    """Return the positions (n, 2) float32 of all images along two principal directions.

    They are those of up to 10,000 embeddings, drawn with ``seed``.
    """
    n, positions = len(gallery), np.zeros((len(gallery), 2), np.float32)
    if n < 2:
        return positions
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:_SAMPLED])
    sample, start = [], 0
    for _, rows in gallery.blocks():
        mine = chosen[(chosen >= start) & (chosen < start + len(rows))] - start
        sample.append(rows[mine].astype(np.float64))
        start += len(rows)
    drawn = np.concatenate(sample)
    mean = drawn.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(drawn, rowvar=False).reshape(gallery.dim, gallery.dim))
    directions = vectors[:, : -1 - min(2, gallery.dim) : -1]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), range(directions.shape[1])])
    start = 0
    for _, rows in gallery.blocks():
        along = (rows - mean) @ (directions * signs)
        positions[start : start + len(rows), : along.shape[1]] = along
        start += len(rows)
    return positions


def arranged(
    start: NDArray[np.float32],
    nearest: NDArray[np.int32],
    method: MapMethod,
    seed: int,
    on_progress: Progress,
) -> NDArray[np.float32]:
    """Return positions (n, 2) float32 that keep neighbours together, found from those at the start.

    ``nearest`` (n, k) int32 are the rows of the neighbours. The same arguments give the same
    positions.
    """
    first, then = _STEPS[method]
    total = first + then
    if not total or len(start) < _FEWEST:
        return start
    import openTSNE  # noqa: PLC0415 - optional, and it takes a second
    from openTSNE import affinity, nearest_neighbors  # noqa: PLC0415

    spread = float(start.std(axis=0).max()) or 1.0
    noise = np.random.default_rng(seed).normal(scale=1e-6, size=start.shape)  # equal ones part
    graph = nearest_neighbors.PrecomputedNeighbors(nearest, np.ones(nearest.shape))
    alike = affinity.Uniform(knn_index=graph, k_neighbors=nearest.shape[1], symmetrize="max")
    done = 0

    def told(step: int, *_: object) -> None:
        on_progress(done + step, total)

    places = openTSNE.TSNEEmbedding(
        start * (1e-4 / spread) + noise,
        alike,
        negative_gradient_method="bh" if len(start) < _INTERPOLATED else "fft",
        random_state=seed,
        n_jobs=1 if len(start) < _SHARED else -1,
        callbacks=told,
        callbacks_every_iters=_EVERY,
    )
    places.optimize(first, exaggeration=_EXAGGERATION, momentum=0.8, inplace=True)
    done = first
    places.optimize(then, momentum=0.8, inplace=True)
    return np.asarray(places, np.float32)


def share_kept(positions: NDArray[np.float32], nearest: NDArray[np.int32], seed: int) -> float:
    """Return which share of the nearest are among as many nearest in the plane; 1 of none.

    It is the mean of up to 1,000 images that are drawn with ``seed``, each compared with all.
    """
    from scipy.spatial import cKDTree  # noqa: PLC0415 - SciPy takes a moment

    k = nearest.shape[1]
    if not k:
        return 1.0
    rows = np.random.default_rng(seed).permutation(len(positions))[:_COUNTED]
    _, there = cKDTree(positions).query(positions[rows], k + 1)
    shares = [
        len(set(near[near != row][:k].tolist()) & set(true.tolist())) / k
        for row, near, true in zip(rows, there, nearest[rows], strict=True)
    ]
    return float(np.mean(shares))
