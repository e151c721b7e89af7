"""What an encoder makes of the images that it learnt from."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from imgsim.images.descriptors import pixels_of
from imgsim.images.variants import cropped
from imgsim.scores import Recognition

_KIN = 10  # of a kind
_EQUAL = 1e-6  # of the greatest square of a length; what is less is rounding


def recognition(
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    images: NDArray[np.uint8],
    seed: int,
) -> Recognition:
    """Return which share of ``images`` (n, height, width, 3) uint8 is the nearest to its variant.

    A variant is cropped a little, half of them are mirrored, and all are lighter or darker; the
    nearest is sought among all n images, by what ``encode`` gives (n, d) and by 32x32 pixels.
    """
    random = np.random.default_rng(seed)
    variants = np.stack([cropped(image, random) for image in images])
    ours, theirs = (_recognised(f(images), f(variants)) for f in (encode, _as_pixels))
    return Recognition(len(images), ours, theirs)


def isolation(rows: NDArray[np.float32]) -> float:
    """Return how far images are from their tenth nearest, as a share of how far any two are.

    That is a ratio of medians of Euclidean distances between embeddings (n, d); 0 of ten or fewer,
    or if all are alike.
    """
    if len(rows) <= _KIN:
        return 0.0
    lengths = np.square(rows, dtype=np.float64).sum(axis=1)
    squares = lengths + lengths[:, None] - 2 * rows @ rows.T
    typical = float(np.median(squares[np.triu_indices(len(rows), 1)]))
    if typical <= _EQUAL * lengths.max():
        return 0.0
    tenth = np.partition(squares, _KIN, axis=1)[:, _KIN]  # the nearest is the image itself
    return float(np.sqrt(max(0.0, np.median(tenth)) / typical))


def _as_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.stack([pixels_of(image) for image in images])


def _recognised(rows: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return the share of ``others`` (n, d) whose nearest of ``rows`` (n, d) is its own.

    Where several are the nearest, each counts in part.
    """
    lengths = np.square(rows).sum(axis=1)
    squares = lengths - 2 * others @ rows.T
    nearest = squares <= squares.min(axis=1, keepdims=True) + _EQUAL * lengths.max()
    return float(np.mean(np.diagonal(nearest) / nearest.sum(axis=1)))
