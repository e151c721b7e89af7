"""TIFFs of bands and numbers that Pillow has no mode for."""

from functools import partial
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image

from imgsim.images.readers.picture import Picture, joined
from imgsim.images.render import SIDEWAYS, turned
from imgsim.images.tags import TiffLayout, tiff_layout

_MOST_BYTES = 1 << 32  # of decoded pixels
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA = {1, 2}  # kinds of extra samples: with colours multiplied by it, and without


def read(file: BinaryIO) -> Image.Image:
    """Return the first page: its first three bands as red, green and blue, or one as grey."""
    layout = tiff_layout(file)
    if layout.bytes > _MOST_BYTES:
        raise OSError(f"its pixels take {layout.bytes:,} bytes; the limit is {_MOST_BYTES:,}")
    size = layout.width, layout.height
    file.seek(0)
    pixels = partial(_pixels, file.read(), layout)
    return Picture("TIFF", size[::-1] if layout.orientation in SIDEWAYS else size, pixels)


def _pixels(content: bytes, layout: TiffLayout, _: tuple[int, int]) -> Image.Image:
    as_rgb = layout.photometric not in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB}
    values = np.atleast_3d(imagecodecs.tiff_decode(content, index=0, asrgb=as_rgb))
    if values.shape[:2] != (layout.height, layout.width):  # band after band
        values = np.moveaxis(values, 0, -1)
    colours = 3 if values.shape[2] > 2 else 1
    alpha = colours if layout.extra[:1] and layout.extra[0] in _ALPHA else None
    image = joined(values, colours, None if as_rgb else alpha)
    if layout.photometric == _WHITE_IS_ZERO:
        image = Image.eval(image, lambda value: 255 - value)
    return turned(image, layout.orientation)
