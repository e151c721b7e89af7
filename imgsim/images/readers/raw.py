"""Raw files of cameras."""

import io
from functools import partial
from typing import BinaryIO

import rawpy
from PIL import Image, ImageOps

from imgsim.images.readers.picture import Picture

_SAME_SHAPE = 0.02


def read(file: BinaryIO) -> Image.Image:
    """Return what the camera saw: its own preview, if that is whole and large enough.

    Otherwise the sensor's values become an image of half the size, with the camera's white balance.
    """
    try:
        raw = rawpy.imread(file)
    except rawpy.LibRawError as error:
        raise _readable(error) from error
    size = raw.sizes.width, raw.sizes.height
    return Picture("RAW", size[::-1] if raw.sizes.flip & 4 else size, partial(_pixels, raw))


def _pixels(raw: rawpy.RawPy, wanted: tuple[int, int]) -> Image.Image:
    try:
        with raw:
            preview = _preview(raw, wanted)
            if preview is not None:
                return preview
            return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
    except rawpy.LibRawError as error:
        raise _readable(error) from error


def _preview(raw: rawpy.RawPy, wanted: tuple[int, int]) -> Image.Image | None:
    """Return the embedded JPEG; None if it is smaller than wanted, of another shape, or damaged.

    Small ones often have black bars.
    """
    try:
        thumbnail = raw.extract_thumb()
        if not isinstance(thumbnail.data, bytes):  # pixels, of old cameras, and few
            return None
        image = Image.open(io.BytesIO(thumbnail.data), formats=["JPEG"])
        sensor = raw.sizes.width / raw.sizes.height
        if (
            min(image.size) < max(wanted)
            or abs(image.width / image.height / sensor - 1) > _SAME_SHAPE
        ):
            return None
        image.draft(None, (max(wanted), max(wanted)))
        return ImageOps.exif_transpose(image)
    except (rawpy.LibRawError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _readable(error: rawpy.LibRawError) -> OSError:
    """Return an error with the words in it, which LibRaw has as bytes."""
    return OSError(*(text.decode() if isinstance(text, bytes) else text for text in error.args))
