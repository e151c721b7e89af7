"""The head of an encoder: last layers, fitted to images without their labels.

They turn the flattened latent, or what another model gives, into the embedding that is searched:
unit length; beside it the shares of colours in the image, so that the squared distance is a
weighted mean of the two; directions in which near images are alike; unit length again.
``imgsim.encoder.head`` joins them to the model.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from imgsim.errors import EncoderError
from imgsim.images.descriptors import YIQ, grey_of, histogram_of
from imgsim.options import HeadSettings

COLOURS = 256
LEAST_POWER = np.float32(-60.0)
"""Of e, beside the greatest. Processors are slow where numbers are too small for float32."""

_COLOUR_SIDE = 32  # of the image whose colours are counted
_SHARES = {"none": 0.0, "little": 0.05, "some": 0.3, "much": 0.7}  # in the square of a length
_LEAST_VARIANCE = 1e-4  # of rows of unit length; what is less is rounding
_JUDGED_SIDE = 64  # of the image whose colours say how much they count
_WIDEST = 8_192
_RELEVANCE = 0.6  # of the deviations of pairs, by which rows are divided
_PIXELS = 60_000
_SHARPNESS = 4.0
_LEAST_SPREAD = 1e-4  # colours that are nearer to each other than so are hardly told apart
_FEWEST_JUDGED = 200
_FEW_AGREE, _MANY_AGREE = 0.045, 0.075

# From RGB in 0..255, with chrominance weighted four times as much as luminance.
_SPACE = YIQ * [0.5, 2.0, 2.0] / 255


@dataclass(frozen=True, eq=False)
class Affine:
    """Parameters of a layer: ``weights`` (in, out) and ``bias`` (out,), float32."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Head:
    """Last layers after a model's output (n, d).

    With ``unit``, rows get unit length. Where there are ``colours``, the layer from a pixel to how
    much it is of each, the roots of their shares in the image are put beside the row: they have
    ``share`` of the square of its length. Where there are ``directions``, they follow, and unit
    length again.
    """

    unit: bool
    share: float
    colours: Affine | None
    directions: Affine | None


def fitted_head(
    rows: NDArray[np.float32], images: Iterable[NDArray[np.uint8]], settings: HeadSettings
) -> Head:
    """Return the head that the settings ask for.

    It is fitted to ``rows`` (n, d), what the model gives for images, and to these, ``pooled``.
    Directions are left out if there are no more images than that, or if these are all alike.
    """
    if rows.shape[1] > _WIDEST:
        raise EncoderError(
            f"it gives {rows.shape[1]:,} values an image; last layers are fitted to {_WIDEST:,} at "
            "most"
        )
    share, colours, directions = _SHARES[settings.colours], None, None
    x = unit(rows) if settings.unit else rows
    if share:
        small = list(images)
        colours = palette(small, settings.seed)
        if len(colours.bias) == 1:
            colours = None
        else:
            shares = np.stack([shares_of(image, colours) for image in small])
            x = np.concatenate([(1 - share) ** 0.5 * x, share**0.5 * shares], axis=1)
    if 0 < settings.dims < len(rows) and x.var(axis=0).sum() > _LEAST_VARIANCE:
        directions = relevant_directions(x, settings.dims, settings.mutual, settings.power)
    return Head(settings.unit, share, colours, directions)


def pooling(size: int, side: int = _COLOUR_SIDE) -> int:
    """Return how many pixels of an image become one before colours are counted."""
    return max(1, size // side)


def pooled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image (height, width, 3) in which colours are counted: means of blocks."""
    return _block_means(image, _COLOUR_SIDE)


def _block_means(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    down, across = pooling(image.shape[0], side), pooling(image.shape[1], side)
    height, width = image.shape[0] // down, image.shape[1] // across
    blocks = image[: height * down, : width * across].reshape(height, down, width, across, 3)
    means: NDArray[np.uint8] = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return means


def shares_of(image: NDArray[np.uint8], colours: Affine) -> NDArray[np.float32]:
    """Return the roots of the shares of colours (k,) in a pooled image."""
    much = image.reshape(-1, 3) @ colours.weights + colours.bias
    powers = np.exp(np.maximum(much - much.max(axis=1, keepdims=True), LEAST_POWER))
    shares = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
    roots: NDArray[np.float32] = np.sqrt(shares).astype(np.float32)
    return roots


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
    weights = (pca.components_ / _shrunk(pca.explained_variance_, power)[:, np.newaxis]).T
    return Affine(weights.astype(np.float32), (-pca.mean_ @ weights).astype(np.float32))


def relevant_directions(
    rows: NDArray[np.float32], most: int, mutual: int = 3, power: float = 0.2
) -> Affine:
    """Return the layer from rows (n, d) at unit length to the directions that tell kinds apart.

    Directions in which near rows differ count less; of what is left, up to ``most`` principal ones
    are kept. This is relevant component analysis with pairs of mutual neighbours in place of known
    ones, and a part of the whitening; they are sought where directions are divided by ``power`` of
    their deviation. Source: Shental et al., Adjustment Learning and Relevant
    Component Analysis, 2002.
    """
    found = principal_directions(rows, most, power)
    one, two = _pairs(unit(rows @ found.weights + found.bias), mutual)
    apart = (rows[one] - rows[two]).astype(np.float64)
    variances, embeddings = np.linalg.eigh(apart.T @ apart / max(1, len(apart)))
    scales = _shrunk(variances, _RELEVANCE)
    whitening = embeddings / scales @ embeddings.T
    kept = principal_directions((rows @ whitening).astype(np.float32), most, 0.0)
    return Affine((whitening @ kept.weights).astype(np.float32), kept.bias)


def _pairs(rows: NDArray[np.float32], mutual: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of rows of which each is among the ``mutual`` nearest of the other."""
    near = np.zeros((len(rows), len(rows)), bool)
    near[np.arange(len(rows))[:, np.newaxis], _nearest(rows, mutual)] = True
    one, two = np.nonzero(np.triu(near & near.T))
    return one, two


def _shrunk(variances: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return a power of the deviations, which stays away from 0."""
    deviations = np.sqrt(np.maximum(variances, 0) + 1e-3 * variances.max() + 1e-12)
    shrunk: NDArray[np.float64] = deviations**power
    return shrunk


def palette(images: Sequence[NDArray[np.uint8]], seed: int) -> Affine:
    """Return the layer from a pixel (3,) in 0..255 to how much it is of each of 256 colours.

    The softmax of its values is the share of the colours; those are the k-means of pixels of
    ``images``, each (height, width, 3), in a luminance and chrominance space.
    """
    random = np.random.default_rng(seed)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
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


@dataclass(frozen=True, eq=False)
class ColourEvidence:
    """What an image adds to how much colours count: its ``digest``, colours and grey pixels."""

    digest: bytes
    colours: NDArray[np.float32]
    grey: NDArray[np.float32]


def colour_evidence(image: NDArray[np.uint8]) -> ColourEvidence:
    """Return what an image (height, width, 3) adds; of a large one, what it is at about 64x64."""
    small = _block_means(image, _JUDGED_SIDE)
    digest = hashlib.sha256(image.tobytes()).digest()
    return ColourEvidence(digest, histogram_of(small), grey_of(small))


def weight_of_colours(evidence: Iterable[ColourEvidence]) -> Literal["little", "some", "much"]:
    """Return how much colours say of what images show.

    It is judged by the share of images whose nearest by colours is their nearest by grey pixels; of
    equal images one counts. Where it is small, the colours of one and the same thing vary; where it
    is great, they tell it. Between them, and of fewer than 200 images, there is no telling: some is
    never best, and far from the worst.
    """
    distinct = {each.digest: (each.colours, each.grey) for each in evidence}
    if len(distinct) < _FEWEST_JUDGED:
        return "some"
    rows = zip(*distinct.values(), strict=True)
    by_colour, by_grey = (_nearest(np.stack(each), 1) for each in rows)
    agreeing = float(np.mean(by_colour == by_grey))
    return "little" if agreeing < _FEW_AGREE else "some" if agreeing < _MANY_AGREE else "much"


def _nearest(rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the k nearest others of each row (n, k)."""
    search = NearestNeighbors(n_neighbors=min(k, len(rows) - 1), algorithm="brute").fit(rows)
    found: NDArray[np.int64] = search.kneighbors(return_distance=False)
    return found
