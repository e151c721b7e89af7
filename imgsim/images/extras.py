"""Formats whose readers are optional: packages that imgsim's extras ask for."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import BinaryIO

from PIL import Image

from imgsim.images.formats import Format, formats

_PACKAGES = {
    "heif": "pi_heif",
    "jxl": "imagecodecs",
    "raw": "rawpy",
    "svg": "resvg_py",
    "tiff": "imagecodecs",
}
_NAMES = {"heif": "HEIF", "jxl": "JPEG XL", "raw": "RAW", "svg": "SVG"}
_LARGEST = 1 << 30  # bytes of a file, which these readers have in memory whole


def has_reader(extra: str) -> bool:
    """Say whether the package of an extra is installed; it is not loaded."""
    return find_spec(_PACKAGES[extra]) is not None


def readable() -> tuple[str, ...]:
    """Return the names of all formats that are read here, sorted."""
    return tuple(sorted({*formats(), *(_NAMES[extra] for extra in _NAMES if has_reader(extra))}))


def missing(found: Format) -> str:
    """Return why a file is refused whose extra is not installed, and what to do."""
    package = _PACKAGES[found.extra].replace("_", "-")
    return f"{found.name} is not read without {package}: {_remedy(found.extra)}"


def is_readable_now(reason: str) -> bool:
    """Say whether a file was refused for an extra that is installed by now."""
    return any(reason.endswith(_remedy(extra)) and has_reader(extra) for extra in _PACKAGES)


def _remedy(extra: str) -> str:
    return f"`pip install 'imgsim[{extra}]'`"


def read(extra: str, file: BinaryIO) -> Image.Image:
    """Return the image in a file, upright; pixels are decoded when they are asked for.

    Raises whatever the reader raises.
    """
    if file.seek(0, os.SEEK_END) > _LARGEST:
        raise OSError(f"the file is larger than {_LARGEST:,} bytes")
    file.seek(0)
    reader = import_module(f"imgsim.images.readers.{extra}")
    image: Image.Image = reader.read(file)
    return image
