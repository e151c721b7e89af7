"""Whether two images are the same picture: their pixels are laid over each other and compared.

Embeddings say what is in a picture, so two photographs of a thing can be nearer than a photograph
and a copy of it in other colours. Here the brightness of 64x64 pixels decides. One image is moved
and stretched a little until it fits the other (Gauss-Newton steps from coarse to fine, as Lucas and
Kanade 1981, with gain and offset as Baker and Matthews 2004), as a crop of it does. Then the
correlation of their details is taken, where they overlap: what is left of them between two widths
of blur. Saving again, another size, other colours and a crop leave that; another photograph of the
same thing does not have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imgsim.images.decode import decode
from imgsim.images.frame import Frame
from imgsim.options import STORED_RULES, DecodeRules

SIDE = 64
"""Height and width of what is compared."""

ALIKE = 0.93
"""From this likeness on two images are the same picture."""

_COVERED = 0.97  # of one of the images, that the other must show
_TRIM = 0.09  # of a side, that is left out where crops are looked for at first
_COARSE = 8  # pixels in a row then
_PASSED = 0.9  # the correlation that is needed then; crops of 15 % have .92 and more
_STEPS = (10, 6, 5)  # at 16, 32 and 64 pixels
_FARTHEST = 0.1  # a step, of half a side
_SCALES, _SHIFTS = (0.75, 1.33), 0.3
_BLUR = np.array([1, 4, 6, 4, 1], np.float32) / 16
_AT_ONCE = 256  # pairs, of which each takes some hundred kilobytes
_SKETCHED = 4_096  # pairs, of which each takes five

Grey = NDArray[np.float32]
"""Brightness (n, height, width) of some images."""


def grey_square(path: str, rules: DecodeRules = STORED_RULES) -> NDArray[np.uint8]:
    """Return the brightness (64, 64) uint8 of an image file, or raise :class:`ImageError`."""
    return as_grey(decode(path, Frame(2 * SIDE, 2 * SIDE), rules))


def as_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the brightness (64, 64) of pixels (128, 128, 3); weights as of ITU-R BT.601."""
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    halved: NDArray[np.uint8] = np.rint(_halved(grey[np.newaxis])[0]).astype(np.uint8)
    return halved


def _outlines(squares: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return what is seen at first sight, (n, 10, 64), of brightness (n, 64, 64) uint8.

    That is 8x8 pixels of each image, and of nine crops of it.
    """
    places = (0, _TRIM / 2, _TRIM)
    boxes = [(0.0, 0.0, 1.0)] + [(top, left, 1 - _TRIM) for top in places for left in places]
    found = np.empty((len(squares), len(boxes), _COARSE**2), np.float16)
    for start in range(0, len(squares), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sums = np.pad(squares[part].astype(np.float64), ((0, 0), (1, 0), (1, 0)))
        sums = sums.cumsum(1).cumsum(2)
        for number, (top, left, side) in enumerate(boxes):
            found[part, number] = _unit(_box_means(sums, top, left, side))
    return found


def _box_means(
    sums: NDArray[np.float64], top: float, left: float, side: float
) -> NDArray[np.float64]:
    """Return the means (n, 64) of 8x8 parts of a box, from sums (n, 65, 65) up to each pixel."""
    for axis, start in ((1, top), (2, left)):
        edges = SIDE * (start + side * np.arange(_COARSE + 1) / _COARSE)
        lower = np.minimum(edges.astype(np.int64), SIDE - 1)
        share = (edges - lower).reshape((-1, 1) if axis == 1 else (1, -1))
        low, high = (np.take(sums, each, axis) for each in (lower, lower + 1))
        sums = np.diff(low + share * (high - low), axis=axis)
    return sums.reshape(len(sums), -1)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows (n, m) of mean 0 and length 1; of one colour they are all 0."""
    values = values - values.mean(1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.zeros_like(values)
    np.divide(values, lengths, out=unit, where=lengths > 1e-6)
    return unit


@dataclass(frozen=True, eq=False)
class Looks:
    """Brightness of images, ``squares`` (n, 64, 64) uint8, and their ``outlines`` (n, 10, 64)."""

    squares: NDArray[np.uint8]
    outlines: NDArray[np.float16]

    @classmethod
    def of(cls, squares: Sequence[NDArray[np.uint8]]) -> Self:
        """Return the looks of images by their brightness (64, 64)."""
        stack = np.stack(squares) if squares else np.empty((0, SIDE, SIDE), np.uint8)
        return cls(stack, _outlines(stack))


def likeness(
    ours: Looks, mine: NDArray[np.int64], theirs: Looks, yours: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return how alike images are, -1 to 1 (m,): rows ``mine`` of ours, and ``yours`` of theirs.

    It is -1 where they differ at first sight, or neither shows nearly all that the other one shows.
    """
    found = np.full(len(mine), -1, np.float32)
    for start in range(0, len(mine), _SKETCHED):
        part = slice(start, start + _SKETCHED)
        one, other = mine[part], yours[part]
        close = np.flatnonzero(_may_be_alike(ours.outlines[one], theirs.outlines[other]))
        for first in range(0, len(close), _AT_ONCE):
            some = close[first : first + _AT_ONCE]
            pairs = ours.squares[one[some]], theirs.squares[other[some]]
            found[start + some] = _likeness(*pairs)
    return found


def _may_be_alike(ours: NDArray[np.float16], theirs: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Say of pairs of outlines (n, 10, 64) whether the images may be alike at first sight.

    Either image may be a crop of the other.
    """
    one, other = ours.astype(np.float32), theirs.astype(np.float32)
    cropped = np.einsum("nkd,nd->nk", one, other[:, 0]).max(1)
    crop = np.einsum("nkd,nd->nk", other, one[:, 0]).max(1)
    flat = ~one[:, 0].any(1) & ~other[:, 0].any(1)
    close: NDArray[np.bool_] = (np.maximum(cropped, crop) >= _PASSED) | flat
    return close


def _likeness(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> NDArray[np.float32]:
    levels = [(ours.astype(np.float32), theirs.astype(np.float32))]
    for _ in _STEPS[1:]:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    frames = np.tile(np.array([1, 0, 1, 0], np.float32), (len(ours), 1))
    for steps, (one, other) in zip(_STEPS, reversed(levels), strict=True):
        one, other = _blurred(one, 1), _blurred(other, 1)  # noqa: PLW2901 - the sharp ones are kept
        for _ in range(steps):
            frames = _fitted(one, other, frames)
    one, other = levels[0]
    details = (_blurred(each, 1) - _blurred(each, 3) for each in (one, other))
    first, second = details
    moved, seen = _moved(first, frames)
    alike = _correlation(moved, second, seen)
    flat = (np.ptp(ours, axis=(1, 2)) <= 2) & (np.ptp(theirs, axis=(1, 2)) <= 2)
    alike[flat] = np.abs(one - other).mean((1, 2))[flat] <= 2  # of one colour: is it the same?
    alike[_covered(frames) < _COVERED] = -1
    return alike


def _halved(grey: Grey) -> Grey:
    count, height, width = grey.shape
    halved: Grey = grey.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
    return halved


def _blurred(grey: Grey, times: int) -> Grey:
    """Blur with the binomial of five pixels, so many times."""
    for _ in range(times):
        for axis in (1, 2):
            border = [(0, 0)] * 3
            border[axis] = (2, 2)
            padded, size = np.pad(grey, border, mode="edge"), grey.shape[axis]
            parts = (
                weight * np.take(padded, range(at, at + size), axis)
                for at, weight in enumerate(_BLUR)
            )
            grey = sum(parts, start=np.zeros_like(grey))
    return grey


def _moved(grey: Grey, frames: NDArray[np.float32]) -> tuple[Grey, Grey]:
    """Return what frames (n, 4) show of images, and 1 where that is in them, else 0.

    A frame is scale and shift, vertical and horizontal; half a side is 1.
    """
    count, side, _ = grey.shape
    at = _places(side)
    numbers = np.arange(count)[:, np.newaxis]
    seen = []
    for scale, shift, axis in ((0, 1, 1), (2, 3, 2)):
        where = (frames[:, scale, np.newaxis] * at + frames[:, shift, np.newaxis] + 1) * side / 2
        where -= 0.5
        seen.append((where >= -0.5) & (where <= side - 0.5))
        where = np.clip(where, 0, side - 1.001)
        lower = where.astype(np.int64)
        share = (where - lower).astype(np.float32)
        flipped = grey if axis == 1 else grey.transpose(0, 2, 1)
        low, high = flipped[numbers, lower], flipped[numbers, lower + 1]
        mixed = low + share[:, :, np.newaxis] * (high - low)
        grey = mixed if axis == 1 else mixed.transpose(0, 2, 1)
    return grey, (seen[0][:, :, np.newaxis] & seen[1][:, np.newaxis, :]).astype(np.float32)


def _places(side: int) -> NDArray[np.float32]:
    """Return where the middles of pixels are, from -1 to 1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1).astype(np.float32)


def _fitted(one: Grey, other: Grey, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return frames after one step towards those in which images look like others."""
    count, side, _ = one.shape
    at = _places(side)
    moved, seen = _moved(one, frames)
    shown, spread = _normed(moved, seen)
    slopes = [
        np.gradient(moved, axis=axis) * seen * (side / 2) / spread[:, np.newaxis, np.newaxis]
        for axis in (1, 2)
    ]
    vertical, horizontal = slopes
    columns = vertical * at[:, np.newaxis], vertical, horizontal * at, horizontal, shown
    matrix = np.stack(columns, axis=-1).reshape(count, -1, 5)
    turned = matrix.transpose(0, 2, 1)
    rest = (_normed(other, seen)[0] - shown).reshape(count, -1, 1)
    damping = 1e-4 * seen.sum((1, 2))[:, np.newaxis, np.newaxis] + 1e-6
    step = np.linalg.solve(turned @ matrix + damping * np.eye(5, dtype=np.float32), turned @ rest)
    frames = frames + np.clip(step[:, :4, 0], -_FARTHEST, _FARTHEST)
    frames[:, [0, 2]] = np.clip(frames[:, [0, 2]], *_SCALES)
    frames[:, [1, 3]] = np.clip(frames[:, [1, 3]], -_SHIFTS, _SHIFTS)
    return frames.astype(np.float32)


def _normed(grey: Grey, seen: Grey) -> tuple[Grey, NDArray[np.float32]]:
    """Return images with mean 0 and deviation 1 where they are seen, and their deviations (n,)."""
    weights = seen.sum((1, 2)) + 1e-6
    means = (grey * seen).sum((1, 2)) / weights
    centred = (grey - means[:, np.newaxis, np.newaxis]) * seen
    spread = np.sqrt((centred**2).sum((1, 2)) / weights) + 1e-3
    return centred / spread[:, np.newaxis, np.newaxis], spread


def _correlation(one: Grey, other: Grey, seen: Grey) -> NDArray[np.float32]:
    """Return the correlations (n,) of images where they are seen."""
    (first, _), (second, _) = _normed(one, seen), _normed(other, seen)
    found: NDArray[np.float32] = (first * second).sum((1, 2)) / (seen.sum((1, 2)) + 1e-6)
    return found


def _covered(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share (n,) of the one image that the other shows, of whichever it is greater."""
    scales, shifts = frames[:, [0, 2]], frames[:, [1, 3]]
    lower, upper = np.maximum(shifts - scales, -1), np.minimum(shifts + scales, 1)
    ours = np.maximum(0, upper - lower).prod(1) / 4
    covered: NDArray[np.float32] = np.maximum(ours, ours / scales.prod(1))
    return covered
