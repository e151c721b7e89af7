"""The same picture once more: cropped, shrunk, lit or coloured otherwise, or saved again."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LEAST_SIDE = 0.8  # of a crop, in those of the image
_LIGHTER = 0.25
_QUALITY = 40  # of a JPEG


def cropped(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) cropped a little, lighter or darker, perhaps mirrored."""
    height, width, _ = image.shape
    share, top, left = random.uniform(_LEAST_SIDE, 1), random.random(), random.random()
    y, x = top * (1 - share) * height, left * (1 - share) * width
    box = x, y, x + share * width, y + share * height
    crop = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box)
    pixels = np.asarray(crop, np.float32) * (1 + random.uniform(-_LIGHTER, _LIGHTER))
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    rounded: NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return rounded


def resaved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) as a JPEG of half its sides keeps it."""
    height, width, _ = image.shape
    half = max(1, width // 2), max(1, height // 2)
    small = Image.fromarray(image).resize(half, Image.Resampling.BILINEAR)
    again = Image.open(io.BytesIO(as_jpeg(small, _QUALITY)))
    return np.asarray(again.resize((width, height), Image.Resampling.BILINEAR))


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    """Return an image as the file of a JPEG."""
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()


def _shrunk(image: Image.Image, random: np.random.Generator) -> Image.Image:
    share = random.uniform(0.25, 0.9)
    size = max(1, round(share * image.width)), max(1, round(share * image.height))
    return image.resize(size, Image.Resampling.BICUBIC)


def _trimmed(image: Image.Image, random: np.random.Generator) -> Image.Image:
    share, x, y = random.uniform(0.02, 0.15), random.random(), random.random()
    left, top = share * x * image.width, share * y * image.height
    right, bottom = left + (1 - share) * image.width, top + (1 - share) * image.height
    return image.crop((round(left), round(top), max(1, round(right)), max(1, round(bottom))))


def _recoloured(image: Image.Image, random: np.random.Generator) -> Image.Image:
    factors = random.uniform(0.75, 1.25) * random.uniform(0.9, 1.1, 3)
    pixels = np.rint(np.clip(np.asarray(image, np.float32) * factors, 0, 255))
    return Image.fromarray(pixels.astype(np.uint8))


def _as_it_is(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image


def _grey(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.convert("L")


Change = Callable[[Image.Image, np.random.Generator], Image.Image]
"""Returns an RGB image changed a little."""

CHANGES: dict[str, Change] = {
    "saved again": _as_it_is,
    "shrunk": _shrunk,
    "cropped": _trimmed,
    "recoloured": _recoloured,
    "grey": _grey,
}
"""What people and programs do to pictures that stay the same pictures."""


def changed(image: Image.Image, kind: str, random: np.random.Generator) -> bytes:
    """Return an RGB image as a JPEG, after one of CHANGES.

    That is to 25 to 90 % of its size, without 2 to 15 % of its sides, up to a quarter lighter or
    darker with up to a tenth more or less of a colour, or grey. The quality is 75 to 95, or of one
    that is only saved again 40 to 95.
    """
    least = 40 if kind == "saved again" else 75
    return as_jpeg(CHANGES[kind](image, random), int(random.integers(least, 96)))
