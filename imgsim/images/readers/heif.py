"""HEIF with HEVC inside, as telephones write it."""

from typing import BinaryIO

from pi_heif import HeifImageFile
from PIL import Image


def read(file: BinaryIO) -> Image.Image:
    """Return the primary image; its transformations are applied, EXIF orientation is not."""
    image: Image.Image = HeifImageFile(file)
    return image
