"""The last layers of an encoder, fitted to the training images after the training.

They turn the flattened latent into the vector whose Euclidean distances are searched: unit length,
the principal directions of the latents, unit length again; beside it the shares of colours in the
image, so that the squared distance is a weighted mean of the two; and of both together the
principal directions.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from imgsim.yardsticks import grey_of, histogram_of

COLOURS = 256
AGREED = 0.06
_PIXELS = 60_000
_SHARPNESS = 4.0
_LEAST_SPREAD = 1e-4  # colours that are nearer to each other than so are hardly told apart
_FEWEST_JUDGED = 200

# Luminance and chrominance (YIQ) from RGB in 0..255, with chrominance weighted four times as much.
_SPACE = (
    np.array([[0.299, 0.596, 0.211], [0.587, -0.274, -0.523], [0.114, -0.322, 0.312]])
    * [0.5, 2.0, 2.0]
    / 255
)


@dataclass(frozen=True, eq=False)
class Affine:
    """Parameters of a layer: ``weights`` (in, out) and ``bias`` (out,), float32."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (n, d) at unit length."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = rows / np.maximum(lengths, 1e-6)
    return scaled


def principal_directions(rows: NDArray[np.float32], most: int, power: float) -> Affine:
    """Return the layer from rows (n, d) to their principal directions.

    There are up to ``most``, and fewer than n; each is divided by a power of its deviation. A small
    one helps those that vary little; 0 leaves distances as they are.
    """
    pca = PCA(min(most, len(rows) - 1, rows.shape[1]), svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # shares of no variance, if all rows are equal
        pca.fit(rows.astype(np.float64))
    deviations = np.sqrt(pca.explained_variance_ + 1e-3 * pca.explained_variance_.max() + 1e-12)
    weights = (pca.components_ / deviations[:, np.newaxis] ** power).T
    return Affine(weights.astype(np.float32), (-pca.mean_ @ weights).astype(np.float32))


def palette(images: NDArray[np.uint8], seed: int) -> Affine:
    """Return the layer from a pixel (3,) in 0..255 to how much it is of each of 256 colours.

    The softmax of its values is the share of the colours; those are the k-means of pixels of
    ``images`` (n, height, width, 3) in a luminance and chrominance space.
    """
    random = np.random.default_rng(seed)
    pixels = images.reshape(-1, 3)
    drawn = random.choice(len(pixels), min(_PIXELS, len(pixels)), replace=False)
    points = pixels[drawn] @ _SPACE
    colours = min(COLOURS, len(np.unique(points, axis=0)))
    means = MiniBatchKMeans(colours, batch_size=4_096, n_init=1, random_state=seed).fit(points)
    spread = float(np.mean(means.transform(points[:5_000]).min(axis=1) ** 2))
    sharpness = _SHARPNESS / max(spread, _LEAST_SPREAD) / 2
    centres = means.cluster_centers_
    weights = 2 * sharpness * _SPACE @ centres.T
    bias = -sharpness * np.square(centres).sum(axis=1)
    return Affine(weights.astype(np.float32), bias.astype(np.float32))


def colours_agree(images: Iterable[NDArray[np.uint8]]) -> float:
    """Return how far images (height, width, 3) of like colours look alike in grey, from 0 to 1.

    It is the share of images whose nearest by colours is their nearest by grey pixels; of equal
    images one counts. Where it is more than AGREED, colours say what is shown; where less, they
    vary for one and the same thing. It is 0 for fewer than 200 images, which say too little.
    """
    described = {_digest(image): (histogram_of(image), grey_of(image)) for image in images}
    if len(described) < _FEWEST_JUDGED:
        return 0.0
    rows = zip(*described.values(), strict=True)
    by_colour, by_grey = (_nearest(np.stack(each)) for each in rows)
    return float(np.mean(by_colour == by_grey))


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _nearest(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest other of each row."""
    found: NDArray[np.int64] = (
        NearestNeighbors(n_neighbors=1, algorithm="brute")
        .fit(rows)
        .kneighbors(return_distance=False)[:, 0]
    )
    return found
