"""What a JPEG lacks: libjpeg fills up what is not there, and says so to nobody."""

import io
import os
import re
import struct
from typing import BinaryIO

from PIL import Image

from imgsim.images.identify import identify

LARGEST = 1 << 28
"""Bytes of a file that is decoded more than once."""

_START_OF_SCAN, _END = 0xDA, 0xD9
_ONE_SCAN_FRAMES = frozenset({0xC0, 0xC1})
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # none is among the pixels of a scan
_FILLERS = b"", b"\0", b"\x55", b"\xaa", b"\xfe"
_RESTARTS = range(0xD0, 0xD8)
_FILLED = {127, 128}  # what libjpeg gives for pixels that are not there; of inverted CMYK 127
_ZEROS = bytes(16)


def has_scans(file: BinaryIO) -> bool:
    """Say whether a JPEG comes in several scans, or is unusual otherwise."""
    bands = 0
    file.seek(2)
    while True:
        mark, marker, length = struct.unpack(">BBH", file.read(4))
        if mark != 0xFF or length < 2:
            return True
        content = file.read(length - 2)
        if marker == _START_OF_SCAN:
            return content[0] != bands
        if marker in _ONE_SCAN_FRAMES:
            bands = content[5]


def may_lack_pixels(file: BinaryIO, image: Image.Image) -> bool:
    """Say whether a JPEG that was decoded looks as one of which a part is missing.

    It ends in the grey that libjpeg gives for what is missing, or its file ends in zeros.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    if set(last if isinstance(last, tuple) else (last,)) <= _FILLED:
        return True
    file.seek(-min(len(_ZEROS) + 2, file.seek(0, os.SEEK_END)), os.SEEK_END)
    return file.read().removesuffix(b"\xff\xd9").endswith(_ZEROS)


def whole(path: str, file: BinaryIO, size: tuple[int, int]) -> Image.Image:
    """Return a JPEG whose pixels are all there, though its end marker may not be; or raise OSError.

    They are all there if they do not depend on what follows. Zeros at the end may be what a copy
    that was interrupted never wrote; then there are mostly more of them than pixels need.
    """
    file.seek(0)
    content = file.read(LARGEST)
    end = _end(content)
    content = content[:end].rstrip(b"\xff")
    if end is None and _is_progressive(identify(path, io.BytesIO(content))):
        raise OSError("image file is truncated")  # later scans may be missing
    image = _same_whatever_follows(path, content.rstrip(b"\0"), size)
    if image is None and content.endswith(b"\0"):
        image = _same_whatever_follows(path, content, size)
        if content.endswith(_ZEROS) and _same_whatever_follows(path, content[: -len(_ZEROS)], size):
            image = None
    if image is None:
        raise OSError("image file is truncated")
    return image


def _same_whatever_follows(path: str, content: bytes, size: tuple[int, int]) -> Image.Image | None:
    """Return the image if its pixels do not depend on what follows the content."""
    first = None
    for filler in _FILLERS:
        rest = b"".join(64 * filler + bytes([0xFF, restart]) for restart in _RESTARTS)
        image = identify(path, io.BytesIO(content + rest + b"\xff\xd9"))
        if not _is_progressive(image):  # whose later scans are not seen at a smaller scale
            image.draft(None, size)
        image.load()
        first = first or image
        if image.tobytes() != first.tobytes():
            return None
    return first


def _is_progressive(image: Image.Image) -> bool:
    return "progressive" in image.info


def _end(content: bytes) -> int | None:
    """Return where the end marker of the first image is; None if there is none."""
    at = 2
    while found := _MARKER.search(content, at):
        if found[1][0] == _END:
            return found.start()
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return None
