"""TIFFs of bands and numbers that Pillow has no mode for."""

from functools import partial
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image

from imgsim.images.readers.picture import Picture, joined, require_few_bytes
from imgsim.images.render import SIDEWAYS, turned
from imgsim.images.tags import TiffLayout, tiff_layout

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA = {1, 2}  # kinds of extra samples: with colours multiplied by it, and without
_MULTIPLIED = 1


def read(file: BinaryIO) -> Image.Image:
    """Return the first page: its first three bands as red, green and blue, or one as grey."""
    layout = tiff_layout(file)
    if layout.depth > 1:
        raise OSError("volumes are not read")
    size = layout.width, layout.height
    pixels = partial(_pixels, file, layout)
    return Picture("TIFF", size[::-1] if layout.orientation in SIDEWAYS else size, pixels)


def _pixels(file: BinaryIO, layout: TiffLayout, _: tuple[int, int]) -> Image.Image:
    require_few_bytes(layout.bytes)
    as_rgb = layout.photometric not in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB}
    file.seek(0)
    values = np.atleast_3d(imagecodecs.tiff_decode(file.read(), index=0, asrgb=as_rgb))
    if values.shape[:2] != (layout.height, layout.width):  # band after band
        values = np.moveaxis(values, 0, -1)
    colours = 3 if values.shape[2] > 2 else 1
    has_alpha = not as_rgb and layout.extra[:1] and layout.extra[0] in _ALPHA
    image = joined(
        values,
        colours,
        colours if has_alpha else None,
        is_multiplied=layout.extra[:1] == (_MULTIPLIED,),
        white_is_zero=layout.photometric == _WHITE_IS_ZERO,
    )
    return turned(image, layout.orientation)
