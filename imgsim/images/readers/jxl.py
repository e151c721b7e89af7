"""JPEG XL."""

import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image

from imgsim.images.readers.picture import Picture, joined, require_few_bytes
from imgsim.images.render import SIDEWAYS

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_HEADER = 48  # bytes of a codestream that its size and the kind of its pixels fit into
_BOXES = 1_000

_Take = Callable[[int], int]


def read(file: BinaryIO) -> Image.Image:
    """Return the image, or of an animation the first frame."""
    size, pixel = _facts(_header(file))
    return Picture("JPEG XL", size, partial(_pixels, file, size, pixel))


def _pixels(file: BinaryIO, size: tuple[int, int], pixel: int, _: tuple[int, int]) -> Image.Image:
    require_few_bytes(size[0] * size[1] * pixel)
    file.seek(0)
    values = np.atleast_3d(imagecodecs.jpegxl_decode(file.read(), index=0))
    if values.shape[1::-1] != size:
        raise OSError(f"its header says {size[0]}x{size[1]} pixels, which is not true")
    bands = values.shape[2]
    return joined(values, 3 if bands > 2 else 1, bands - 1 if bands in {2, 4} else None)


def _header(file: BinaryIO) -> bytes:
    """Return how the codestream begins, which may be in boxes."""
    head = file.read(_HEADER)
    if head.startswith(b"\xff\x0a"):
        return head
    at, found = 0, b""
    for _ in range(_BOXES):
        file.seek(at)
        length, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        start = at + (16 if length == 1 else 8) + (4 if kind == b"jxlp" else 0)
        at = at + (long if length == 1 else length) if length else sys.maxsize
        if kind in {b"jxlc", b"jxlp"}:
            file.seek(start)
            found += file.read(max(0, min(at - start, _HEADER - len(found))))
        if at < start or len(found) == _HEADER or at == sys.maxsize or kind == b"jxlc":
            break
    if not found.startswith(b"\xff\x0a"):
        raise OSError("the file has no codestream")
    return found


def _facts(header: bytes) -> tuple[tuple[int, int], int]:
    """Return (width, height) of the upright image, and how many bytes its pixels take at most.

    See ISO 18181-1, D.2 and D.3.
    """
    take = _bits(header[2:])
    size, orientation, sample, extra = _size(take), 1, 1, 1
    if not take(1):  # not all is as usual
        if take(1):
            orientation = take(3) + 1
            if take(1):  # the size to show it at
                _size(take)
            if take(1):
                _skip_preview(take)
            if take(1):
                _skip_animation(take)
        is_float = take(1)
        depth = take((0, 0, 0, 6)[kind := take(2)]) + (8, 10, 12, 1)[kind]
        take(5 if is_float else 1)
        extra = take((0, 0, 4, 12)[kind := take(2)]) + (0, 1, 2, 1)[kind]
        sample = 4 if is_float else (depth + 7) // 8
    return (size[::-1] if orientation in SIDEWAYS else size), (3 + extra) * sample


def _size(take: _Take) -> tuple[int, int]:
    is_small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = length()
    ratio = take(3)
    times, over = _RATIOS.get(ratio, (0, 1))
    return (height * times // over if ratio else length()), height


def _skip_preview(take: _Take) -> None:
    widths = (0, 0, 5, 9) if take(1) else (6, 8, 10, 12)
    take(widths[take(2)])
    if not take(3):
        take(widths[take(2)])


def _skip_animation(take: _Take) -> None:
    for widths in ((0, 0, 10, 30), (0, 0, 8, 10), (0, 3, 16, 32)):
        take(widths[take(2)])
    take(1)


def _bits(content: bytes) -> _Take:
    """Return what takes so many bits at a time, the least first."""
    left = int.from_bytes(content, "little")

    def take(count: int) -> int:
        nonlocal left
        value = left & ((1 << count) - 1)
        left >>= count
        return value

    return take
