"""An image as callers have it: a path, the bytes of a file, a Pillow image, or an array."""

import io
import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.errors import ImageNotFound
from imgsim.images.decode import (
    decode,
    decode_open,
    decode_stream,
    sorted_out,
)
from imgsim.images.frame import Frame
from imgsim.images.scan import find
from imgsim.options import DECODE_RULES, DecodeRules

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path; the content of an image file; a Pillow image; or pixels.

Pixels are uint8: (height, width) grey, (height, width, 3) RGB, or (height, width, 4) RGBA.
"""

Images = ImageSource | Iterable[ImageSource]
"""An image, or several; an array of four axes is several."""


def images_in(folder: str, held: Iterable[str] = ()) -> list[str]:
    """Return the paths of the images in a folder, and of files that should be images.

    Raises :class:`ImageNotFound` if there are none. The folders ``held`` are not entered.
    """
    paths, refused = sorted_out(find([folder], collection=held))
    found = sorted(paths + [refusal.path for refusal in refused])
    if not found:
        raise ImageNotFound(folder, "there are no images in this folder")
    return found


def listed_images(images: Images) -> list[ImageSource]:
    """Return one image, or several, as a list."""
    is_one = isinstance(images, str | os.PathLike | bytes | Image.Image)
    if is_one or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]  # type: ignore[list-item] # mypy does not see what was just excluded
    return list(images)  # type: ignore[arg-type] # as above


def name_of(source: ImageSource, number: int) -> str:
    """Return the path, or for an image in memory what to call the one of this number."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    kind = "bytes" if isinstance(source, bytes) else "image"
    return f"<{kind} {number}>"


def decode_source(
    source: ImageSource, name: str, frame: Frame, rules: DecodeRules = DECODE_RULES
) -> NDArray[np.uint8]:
    """Return an image as (height, width, 3) uint8, or raise :class:`ImageError`.

    An array of another shape or type raises ValueError, any other object TypeError. A JPEG file is
    decoded at the least scale that is large enough, an image in memory is at full size already, so
    the two may differ by what resizing rounds.
    """
    if isinstance(source, str | os.PathLike):
        return decode(os.fspath(source), frame, rules)
    if isinstance(source, bytes):
        return decode_stream(name, io.BytesIO(source), frame, rules)
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if not isinstance(source, Image.Image):
        raise TypeError(
            "an image must be a path, bytes, a Pillow image or a uint8 array, not "
            f"{type(source).__name__}"
        )
    return decode_open(name, source, frame, rules)


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in {3, 4})
    if pixels.dtype != np.uint8 or not fits or not pixels.size:
        raise ValueError(
            "an array must be (height, width), (height, width, 3) or (height, width, 4) uint8, not "
            f"{pixels.shape} {pixels.dtype}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
