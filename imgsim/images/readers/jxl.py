"""JPEG XL."""

import struct
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image

from imgsim.images.readers.picture import Picture, joined
from imgsim.images.render import SIDEWAYS

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_HEADER = 16  # bytes of a codestream that its size and orientation fit into
_BOXES = 1_000


def read(file: BinaryIO) -> Image.Image:
    """Return the image, or of an animation the first frame."""
    size = _size(_header(file))
    file.seek(0)
    return Picture("JPEG XL", size, partial(_pixels, file.read()))


def _pixels(content: bytes, _: tuple[int, int]) -> Image.Image:
    values = np.atleast_3d(imagecodecs.jpegxl_decode(content, index=0))
    bands = values.shape[2]
    return joined(values, 3 if bands > 2 else 1, bands - 1 if bands in {2, 4} else None)


def _header(file: BinaryIO) -> bytes:
    """Return how the codestream begins, which may be in a box."""
    head = file.read(_HEADER)
    if head.startswith(b"\xff\x0a"):
        return head
    at = 0
    for _ in range(_BOXES):
        file.seek(at)
        length, kind, long = struct.unpack(">I4sQ", file.read(16))
        start = at + (16 if length == 1 else 8)
        if kind in {b"jxlc", b"jxlp"}:
            file.seek(start + (4 if kind == b"jxlp" else 0))
            return file.read(_HEADER)
        at += long if length == 1 else length
        if at < start:
            break
    raise OSError("the file has no codestream")


def _size(header: bytes) -> tuple[int, int]:
    """Return (width, height) of the upright image; see ISO 18181-1, D.2."""
    take = _bits(header[2:])
    is_small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = length()
    ratio = take(3)
    times, over = _RATIOS.get(ratio, (0, 1))
    width = height * times // over if ratio else length()
    orientation = 1
    if not take(1) and take(1):  # not all is as usual, and there are further fields
        orientation = take(3) + 1
    return (height, width) if orientation in SIDEWAYS else (width, height)


def _bits(content: bytes) -> Callable[[int], int]:
    """Return what takes so many bits at a time, the least first."""
    left = int.from_bytes(content, "little")

    def take(count: int) -> int:
        nonlocal left
        value = left & ((1 << count) - 1)
        left >>= count
        return value

    return take
