"""Open an image file, and find out what is in it."""

import errno
import os
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from io import BufferedReader
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from imgsim.errors import ImageError, ImageUnavailable, NotAnImage, unavailable
from imgsim.images.extras import has_reader, missing, read
from imgsim.images.formats import COMMON, TIFF, Format, formats, other_format
from imgsim.images.render import scale_transparency
from imgsim.images.tags import TiffLayout, is_preview, tiff_layout

# What readers raise where they took a damaged file for sound; the words are about their code.
_STUMBLES = TypeError, LookupError, AttributeError, ArithmeticError, UnicodeError, struct.error

# What readers raise where a file is not of theirs, in which case Pillow tries the next.
_NOT_MINE = SyntaxError, IndexError, TypeError, struct.error


def open_file(path: str) -> BufferedReader:
    """Open a regular file, or raise :class:`ImageUnavailable`."""
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
    if not stat.S_ISREG(facts_of(path, descriptor).st_mode):
        raise ImageUnavailable(path, "not a regular file")
    try:
        os.pread(descriptor, 1, 0)
    except OSError as error:
        raise unavailable(path, error) from error


def facts_of(path: str, descriptor: int) -> os.stat_result:
    """Return size, times and kind of an open file, which a server may have forgotten."""
    try:
        return os.fstat(descriptor)
    except OSError as error:
        raise unavailable(path, error) from error


def identify(path: str, file: BinaryIO) -> Image.Image:
    """Return the image in an open file, whose pixels are not decoded; or raise ImageError."""
    try:
        return _identified(path, file)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise NotAnImage(path, "not an image in a known format") from error
    except Exception as error:  # the decode boundary: hostile files raise anything
        raise refusal(path, error) from error


def _identified(path: str, file: BinaryIO) -> Image.Image:
    with suppress(UnidentifiedImageError):
        return _by_pillow(file, COMMON)
    file.seek(0)
    head = file.read(1024)
    other = other_format(path, head)
    layout = _layout(file) if head.startswith(TIFF) else None
    if layout is not None and layout.is_dng:
        other = Format("DNG", "raw")
    elif layout is not None and _is_preview(file):
        other = other if other is not None and other.extra == "raw" else Format("RAW", "raw")
    is_misread = layout is not None and layout.is_misread
    if other is not None and (is_misread or other.extra == "raw"):
        return _by_extra(path, file, other)  # Pillow takes previews for the whole
    try:
        return _by_pillow(file, formats())
    except (UnidentifiedImageError, ValueError) as error:  # some readers take any text for theirs
        if other is None:
            raise UnidentifiedImageError from error
    return _by_extra(path, file, other)


def _layout(file: BinaryIO) -> TiffLayout | None:
    with suppress(Exception):  # part of the decode boundary
        return tiff_layout(file)
    return None


def _is_preview(file: BinaryIO) -> bool:
    with suppress(Exception):  # part of the decode boundary
        return is_preview(file)
    return False


def _by_pillow(file: BinaryIO, names: Sequence[str]) -> Image.Image:
    """Do what Image.open does, but for its limit of pixels, which is one for the whole process."""
    Image.preinit()
    file.seek(0)
    head = file.read(16)
    for name in names:
        factory, accepts = Image.OPEN[name]
        with suppress(*_NOT_MINE):
            accepted = accepts is None or accepts(head)
            if accepted and not isinstance(accepted, str):  # a string says why not
                file.seek(0)
                image = factory(file, "")
                scale_transparency(image)
                return image
    raise UnidentifiedImageError("not an image in a known format")


def _by_extra(path: str, file: BinaryIO, found: Format) -> Image.Image:
    if found.extra and has_reader(found.extra):
        try:
            return read(found.extra, file)
        except UnidentifiedImageError:
            raise
        except Exception as error:  # part of the decode boundary
            raise refusal(path, error, found.name or "TIFF") from error
    if found.extra == "tiff":
        layout = _layout(file)
        found = Format(layout.name if layout else "a TIFF of this kind", found.extra)
    raise ImageError(path, missing(found) if found.extra else f"{found.name} is not read")


def refusal(path: str, error: Exception, name: str = "") -> ImageError:
    """Return what to raise for anything that decoding raised, with a reason in one line.

    It begins with the ``name`` of the format, if there is one.
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
    return ImageError(path, f"{name}: {reason}" if name else reason)
