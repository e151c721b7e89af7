"""The same picture once more: cropped and lit otherwise, or saved again."""

import io

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
    file = io.BytesIO()
    half = max(1, width // 2), max(1, height // 2)
    Image.fromarray(image).resize(half, Image.Resampling.BILINEAR).save(
        file, "JPEG", quality=_QUALITY
    )
    return np.asarray(Image.open(file).resize((width, height), Image.Resampling.BILINEAR))
