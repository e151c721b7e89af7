"""Decode one image file safely.

How each kind of picture becomes red, green and blue bytes:

================================  ==============================================================
orientation in EXIF               applied; a damaged EXIF block counts as upright
orientation in a TIFF             applied, by Pillow
several frames or pages           the first in which there is something (of an icon: the largest)
alpha, or a transparent colour    on white; on black if what is visible is almost white
1 bit, grey, palette              expanded to RGB
16-bit grey                       the upper 8 of 16 bits, or of 12 or 8 if no value needs more
32-bit integer or float grey      resized; then its least to greatest finite value is 0 to 255
CMYK, YCbCr, HSV                  Pillow's conversion; embedded colour profiles are not applied
L*a*b*                            converted to sRGB with the built-in profiles
JPEG that lacks its end marker    read if all pixels are there; else cut files are refused
large JPEG                        decoded at the least scale (1/2, 1/4, 1/8) that is large enough
any size                          resized to the asked size, antialiased, aspect ratio not kept
================================  ==============================================================

EPS is not read, because Pillow would run Ghostscript on it.
"""

import errno
import hashlib
import io
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedReader
from itertools import tee
from threading import Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from imgsim.errors import ImageError, ImageUnavailable, NotAnImage, unavailable
from imgsim.files import mtime_ns
from imgsim.images.formats import COMMON, formats, unread_format
from imgsim.images.render import SIDEWAYS, render
from imgsim.parallel import in_threads
from imgsim.records import ImageFile
from imgsim.results import Refusal

MAX_PIXELS = 178_956_970
"""Images that declare more pixels are refused: a small file could fill the memory."""

_LARGE_PIXELS = 1 << 24
_LARGEST_ENDED = 1 << 28  # bytes of a JPEG without an end that is tried once more
_LARGE = Lock()

# Pillow takes memory for pixels in blocks. What is over 32 MB goes back to the system when it is
# freed; the usual 16 MB may stay with the thread that had them.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined] # its stubs leave it out

# What readers raise where they took a damaged file for sound; the words are about their code.
_STUMBLES = TypeError, LookupError, AttributeError, ArithmeticError, UnicodeError, struct.error

_ORIENTATION = 0x0112
_SCALED_FORMATS = frozenset({"JPEG", "MPO"})


def is_other_file(error: ImageError, *, claimed: bool) -> bool:
    """Say whether an error is that of a file that is no image and does not claim to be one."""
    return isinstance(error, NotAnImage) and not claimed


def sorted_out(
    found: Iterable[ImageFile | ImageError],
) -> tuple[list[str], list[Refusal]]:
    """Return the paths of the files that begin like images, and those that should and do not.

    Pixels are not decoded, so a file of the former may still be refused.
    """
    paths, refused = [], []
    items, ahead = tee(found)
    for item, result in zip(items, in_threads(_begin, ahead), strict=True):
        if not isinstance(result, ImageError):
            paths.append(result)
        elif not is_other_file(result, claimed=not isinstance(item, ImageFile) or item.claimed):
            refused.append(Refusal(result.path, result.reason))
    return paths, refused


def _begin(item: ImageFile | ImageError) -> str:
    """Return the path of a file that begins like an image."""
    if isinstance(item, ImageError):
        raise item
    with _open_file(item.path) as file:
        _identify(item.path, file)
    return item.path


def content_hash(path: str) -> bytes:
    """Return the sha256 of the file at ``path``, or raise :class:`ImageError`."""
    with _open_file(path) as file:
        return _sha256(path, file.fileno())


def decode(path: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return the image at ``path`` as (height, width, 3) uint8, or raise :class:`ImageError`."""
    with _open_file(path) as file:
        return decode_stream(path, file, height, width)


def decode_stream(name: str, file: BinaryIO, height: int, width: int) -> NDArray[np.uint8]:
    """Do what :func:`decode` does with an open file, which errors call ``name``."""
    return _decode(name, file, _identify(name, file), (width, height)).values


def decode_open(name: str, image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Do what :func:`decode` does with an image in memory, which stays as it is."""
    _refuse_huge(name, image)
    try:
        orientation = _orientation(image)
        return render(image.copy(), (width, height), orientation)
    except Exception as error:  # the decode boundary: it may be read from its file only now
        raise _refusal(name, error) from error


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as (height, width, 3) uint8, and the ``size`` (width, height) that it had before."""

    values: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An open image file; size, time and content hash are of what :meth:`decode` reads."""

    path: str
    size: int
    mtime_ns: int
    sha256: bytes
    _file: BufferedReader
    _image: Image.Image
    _descriptor: int
    _stamp: tuple[int, int, int]

    def decode(self, height: int, width: int) -> Pixels:
        """Return the pixels, once, or raise :class:`ImageError`."""
        pixels = _decode(self.path, self._file, self._image, (width, height))
        if _stamp(_facts(self.path, self._descriptor)) != self._stamp:
            raise ImageUnavailable(self.path, "was changed while it was read")
        return pixels


@contextmanager
def opened(path: str) -> Iterator[OpenImage]:
    """Open and hash the file at ``path``, or raise :class:`ImageError` if it is no image."""
    with _open_file(path) as file, open(os.dup(file.fileno()), "rb") as again:
        facts = _facts(path, again.fileno())
        image = _identify(path, file)  # some decoders close the file
        _refuse_huge(path, image)
        sha256 = _sha256(path, again.fileno())
        whose = path, facts.st_size, mtime_ns(facts), sha256
        yield OpenImage(*whose, file, image, again.fileno(), _stamp(facts))


def _stamp(facts: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when a file is written to."""
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _sha256(path: str, descriptor: int) -> bytes:
    """Return the hash of the content; the place where the file is read from stays."""
    digest, at = hashlib.sha256(), 0
    try:
        while chunk := os.pread(descriptor, 1 << 20, at):
            digest.update(chunk)
            at += len(chunk)
    except OSError as error:
        raise unavailable(path, error) from error
    return digest.digest()


def thumbnail(path: str, side: int) -> Pixels:
    """Return the image with its aspect ratio kept, fitting into ``side`` x ``side``."""
    with _open_file(path) as file:
        return _decode(path, file, _identify(path, file), (side, side), keep_aspect=True)


def dimensions(path: str) -> tuple[int, int]:
    """Return (width, height) of the upright image at ``path``, without its pixels."""
    with _open_file(path) as file, closing(_identify(path, file)) as image:
        size = image.size
        return size[::-1] if _orientation(image) in SIDEWAYS else size


def _open_file(path: str) -> BufferedReader:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would block
    except OSError as error:
        raise unavailable(path, error) from error
    except ValueError as error:  # a NUL character in the path
        raise ImageUnavailable(path, str(error)) from error
    try:
        _require_content(path, descriptor)
    except ImageUnavailable:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _require_content(path: str, descriptor: int) -> None:
    """Raise :class:`ImageUnavailable` unless the system gives what an open file begins with.

    What a reader makes of such an error may read as if the content were bad.
    """
    if not stat.S_ISREG(_facts(path, descriptor).st_mode):
        raise ImageUnavailable(path, "not a regular file")
    try:
        os.pread(descriptor, 1, 0)
    except OSError as error:
        raise unavailable(path, error) from error


def _facts(path: str, descriptor: int) -> os.stat_result:
    """Return size, times and kind of an open file, which a server may have forgotten."""
    try:
        return os.fstat(descriptor)
    except OSError as error:
        raise unavailable(path, error) from error


def _identify(path: str, file: BinaryIO) -> Image.Image:
    try:
        try:
            return Image.open(file, formats=COMMON)
        except UnidentifiedImageError:
            return Image.open(file, formats=formats())
    except (UnidentifiedImageError, ValueError) as error:  # some readers take any text for theirs
        file.seek(0)
        if (unread := unread_format(path, file.read(32))) is not None:
            raise ImageError(path, f"{unread} is not read") from error
        raise NotAnImage(path, "not an image in a known format") from error
    except Exception as error:  # the decode boundary: hostile files raise anything
        raise _refusal(path, error) from error


def _decode(
    path: str,
    file: BinaryIO,
    image: Image.Image,
    size: tuple[int, int],
    *,
    keep_aspect: bool = False,
) -> Pixels:
    width, height = image.size
    _refuse_huge(path, image)
    with _alone(image):
        try:
            orientation = _orientation(image)
            if orientation in SIDEWAYS:
                width, height = height, width
            if keep_aspect:
                scale = min(size[0] / width, size[1] / height)
                size = max(1, round(width * scale)), max(1, round(height * scale))
            pixels = _scaled(path, file, image, size, orientation)
        except Exception as error:  # the decode boundary: hostile files raise anything
            # Tracebacks would keep what the decoder has in memory.
            error.with_traceback(None).__cause__ = error.__context__ = None
            raise _refusal(path, error) from error
    return Pixels(pixels, (width, height))


def _refuse_huge(path: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError(path, f"{size} pixels are over the limit of {MAX_PIXELS}")


@contextmanager
def _alone(image: Image.Image) -> Iterator[None]:
    """Release the pixels at the end; large images are in memory one at a time.

    JPEGs do not count, which are decoded at a smaller scale.
    """
    large = image.width * image.height > _LARGE_PIXELS and image.format not in _SCALED_FORMATS
    with _LARGE if large else nullcontext(), closing(image):
        yield


def _scaled(
    path: str, file: BinaryIO, image: Image.Image, size: tuple[int, int], orientation: int
) -> NDArray[np.uint8]:
    """Return upright pixels, of a JPEG from a smaller scale if it can be decoded at one."""
    try:
        image.draft(None, size)
        return render(image, size, orientation)
    except OSError:
        if image.format not in _SCALED_FORMATS:
            raise
    file.seek(0)
    try:  # a lossless JPEG cannot be decoded at a smaller scale
        return render(_identify(path, file), size, orientation)
    except OSError:
        file.seek(0)
        return render(_ended(path, file.read(_LARGEST_ENDED), size), size, orientation)


def _ended(path: str, content: bytes, size: tuple[int, int]) -> Image.Image:
    """Return a JPEG whose pixels are all there, though its end marker is not; or raise OSError.

    They are all there if they do not depend on what follows. In a progressive one, later scans may
    be missing.
    """
    decoded = []
    for filler in (b"", b"\0", b"\x55", b"\xaa", b"\xfe"):
        image = _identify(path, io.BytesIO(content.rstrip(b"\xff") + 64 * filler + b"\xff\xd9"))
        if "progressive" in image.info:
            raise OSError("image file is truncated")
        image.draft(None, size)
        image.load()
        decoded.append(image)
    if len({each.tobytes() for each in decoded}) > 1:
        raise OSError("image file is truncated")
    return decoded[0]


def _refusal(path: str, error: Exception) -> ImageError:
    """Return what to raise for anything that decoding raised, with a reason in one line.

    An error of the operating system or a lack of memory says nothing about the content. But the
    system calls an argument invalid where a file names a place before its own beginning.
    """
    if isinstance(error, ImageError):
        return error
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return ImageUnavailable(path, reason)
    if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
        return ImageUnavailable(path, error.strerror or reason)
    if isinstance(error, _STUMBLES) or reason.startswith(("[Errno", "invalid literal")):
        reason = f"damaged: its values make no sense ({type(error).__name__} in the reader)"
    return ImageError(path, reason)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns TIFFs upright itself
    if image.format == "PNG":
        image.load()  # or `getexif` would, and a second attempt takes damaged pixels for sound
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - part of the decode boundary: bad EXIF is no reason to refuse
        return 1
