"""The last layers of an encoder, fitted to the training images after the training.

They turn the flattened latent into the vector whose Euclidean distances are searched: unit length,
the principal directions of the latents, unit length again; and beside it the shares of colours in
the image, so that the squared distance is a weighted mean of the two.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from imgsim.yardsticks import grey_of, histogram_of

COLOURS = 256
_PIXELS = 60_000
_POWER = 0.2  # of the standard deviations, by which the principal directions are divided
_SHARPNESS = 4.0
_NEAREST = 10

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


def principal_directions(latents: NDArray[np.float32], most: int) -> Affine:
    """Return the layer from latents (n, d) of unit length to their principal directions.

    There are up to ``most``, and fewer than n; each is divided by a small power of its deviation,
    which helps those that vary little.
    """
    pca = PCA(min(most, len(latents) - 1, latents.shape[1]), svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # shares of no variance, if all rows are equal
        pca.fit(latents.astype(np.float64))
    deviations = np.sqrt(pca.explained_variance_ + 1e-3 * pca.explained_variance_.max() + 1e-12)
    weights = (pca.components_ / deviations[:, np.newaxis] ** _POWER).T
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
    spread = float(np.mean(means.transform(points[:5_000]).min(axis=1) ** 2)) + 1e-6
    sharpness = _SHARPNESS / spread / 2
    centres = means.cluster_centers_
    weights = 2 * sharpness * _SPACE @ centres.T
    bias = -sharpness * np.square(centres).sum(axis=1)
    return Affine(weights.astype(np.float32), bias.astype(np.float32))


def colours_agree(images: Iterable[NDArray[np.uint8]]) -> float:
    """Return how far images (height, width, 3) of like colours look alike in grey, from 0 to 1.

    It is the share of each image's 10 nearest by colours that are among its 10 nearest by grey
    pixels. Where it is great, colours say what is shown; where it is small, they vary for one and
    the same thing.
    """
    described = ((histogram_of(image), grey_of(image)) for image in images)
    by_colour, by_grey = (_nearest(np.stack(rows)) for rows in zip(*described, strict=True))
    shared = [
        len(set(a) & set(b)) / max(1, len(a)) for a, b in zip(by_colour, by_grey, strict=True)
    ]
    return float(np.mean(shared))


def _nearest(rows: NDArray[np.float32]) -> list[list[int]]:
    """Return the nearest 10 others of each row."""
    k = min(_NEAREST + 1, len(rows))
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors(rows)[1]
    return [[i for i in near if i != row][: k - 1] for row, near in enumerate(found.tolist())]
