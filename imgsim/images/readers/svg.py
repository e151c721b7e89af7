"""SVG, drawn by a process of its own that can neither run for long nor open a file.

Drawing has no bounds by itself: a filter of a few bytes takes hours, deep nesting overflows the
stack, and pictures are loaded from paths. Fonts of the system are not read either, so text is not
drawn, and a file looks the same on every machine.
"""

import io
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree as ET

from PIL import Image, UnidentifiedImageError

from imgsim.images.readers.picture import Picture

_CHILD = Path(__file__).parent / "svg_child.py"
_PIXELS = {"": 1, "px": 1, "pt": 4 / 3, "pc": 16, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96}
_LENGTH = re.compile(r"\s*\+?([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(px|pt|pc|mm|cm|in|)\s*")
_TRIED = 256  # pixels of the longer side of a drawing that does not say how large it is
_LONGEST = 4  # times the longer of the sides that are wanted
_LARGEST = 1 << 26  # bytes of a file; a larger one would not fit into the memory of the process
_GREATEST = 1 << 24  # a side


def read(file: BinaryIO) -> Image.Image:
    """Return the drawing; it is drawn at the least size that is needed."""
    size = _declared_size(file) or _drawn(file, _TRIED).size
    return Picture("SVG", size, partial(_pixels, file, size))


def _pixels(file: BinaryIO, size: tuple[int, int], wanted: tuple[int, int]) -> Image.Image:
    scale = max(wanted[0] / size[0], wanted[1] / size[1])
    return _drawn(file, min(math.ceil(scale * max(size)), _LONGEST * max(wanted)))


def _drawn(file: BinaryIO, side: int) -> Image.Image:
    """Return the drawing with its longer side of so many pixels."""
    if file.seek(0, os.SEEK_END) > _LARGEST:
        raise OSError(f"the file is larger than {_LARGEST:,} bytes")
    file.seek(0)
    command = [sys.executable, "-P", str(_CHILD), str(side)]
    done = subprocess.run(command, input=file.read(), capture_output=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        raise OSError("it takes too long to draw")
    if done.returncode < 0:
        raise OSError("it is too large or too deep to draw")
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(reason[-1] if reason else "it cannot be drawn")
    return Image.open(io.BytesIO(done.stdout), formats=["PNG"])


def _declared_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return (width, height) in pixels, at least 1 each; None if the drawing does not say it."""
    _, root = next(ET.iterparse(file, events=("start",)))
    if root.tag != "{http://www.w3.org/2000/svg}svg":
        raise UnidentifiedImageError("another kind of markup")
    box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
    width, height = _pixels_of(root.get("width")), _pixels_of(root.get("height"))
    if len(box) == 4:
        across, down = _pixels_of(box[2]), _pixels_of(box[3])
        if across and down:
            width = width or (height * across / down if height else across)
            height = height or width * down / across
    if not (width and height):
        return None
    scale = min(1.0, _GREATEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _pixels_of(length: str | None) -> float | None:
    """Return a length in pixels; None if it is not there, or is relative to something."""
    match = _LENGTH.fullmatch(length or "")
    pixels = float(match[1]) * _PIXELS[match[2]] if match else math.inf
    return pixels if math.isfinite(pixels) else None
