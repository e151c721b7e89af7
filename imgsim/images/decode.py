"""Decode one image file safely.

How each kind of picture becomes red, green and blue bytes:

================================  ==============================================================
orientation in EXIF               applied; a damaged EXIF block counts as upright
orientation in a TIFF             applied, by Pillow
several frames or pages           the first one (of an icon: the largest)
animated GIF, PNG, WebP, AVIF     the first frame in which there is something
alpha, or a transparent colour    on white; on black if what is visible is almost white
1 bit, grey, palette              expanded to RGB
16-bit grey                       the upper 8 of 16 bits, or of 12 or 8 if no value needs more
32-bit integer or float grey      resized; then its least to greatest finite value is 0 to 255
TIFFs of other bands or numbers   [tiff] the first three bands as RGB, or the first; then as above
CMYK, YCbCr, HSV                  Pillow's conversion; embedded colour profiles are not applied
L*a*b*                            converted to sRGB with the built-in profiles
JPEG that lacks its end marker    read if all pixels are there; else cut files are refused
JPEG that ends in grey or zeros   the same, as libjpeg fills up what is missing
large JPEG                        decoded at the least scale (1/2, 1/4, 1/8) that is large enough
HEIF                              [heif] the primary image, with its own transformations applied
JPEG XL                           [jxl] orientation applied; floats as above
raw file of a camera              [raw] its preview if large enough, else developed at half size
SVG                               [svg] drawn at the size that is needed, without text and links
any size                          resized to its frame, antialiased: stretched, or cropped
================================  ==============================================================

In brackets is the extra of imgsim that reads it. EPS is not read, because Pillow would run
Ghostscript on it.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from io import BufferedReader
from itertools import tee
from threading import RLock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile as PillowFile

from imgsim.errors import ImageError, ImageUnavailable, NotAnImage, unavailable
from imgsim.files import mtime_ns
from imgsim.images.extras import is_readable_now
from imgsim.images.frame import Frame
from imgsim.images.identify import facts_of, identify, open_file, refusal
from imgsim.images.jpeg import LARGEST, has_scans, may_lack_pixels, whole
from imgsim.images.render import SIDEWAYS, is_blank, render
from imgsim.options import DECODE_RULES, MAX_PIXELS, DecodeRules
from imgsim.parallel import in_threads
from imgsim.records import ImageFile
from imgsim.results import Refusal

_LARGE_PIXELS = 1 << 24
_LARGE = RLock()

# Pillow takes memory for pixels in blocks. What is over 32 MB goes back to the system when it is
# freed; the usual 16 MB may stay with the thread that had them.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined] # its stubs leave it out

_ORIENTATION = 0x0112
_JPEG = frozenset({"JPEG", "MPO"})
_OVER = re.compile(r"pixels exceed the limit of (\d+); see --max-pixels$")
_UPRIGHT_FORMATS = frozenset({"HEIF", "JPEG XL", "RAW", "SVG", "TIFF"})


def is_other_file(error: ImageError, *, claimed: bool) -> bool:
    """Say whether an error is that of a file that is no image and does not claim to be one."""
    return isinstance(error, NotAnImage) and not claimed


def is_outdated(reason: str, rules: DecodeRules) -> bool:
    """Say whether a file that was refused for this reason may be decoded by now."""
    limit = _OVER.search(reason)
    return rules.max_pixels > int(limit[1]) if limit else is_readable_now(reason)


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
    with open_file(item.path) as file:
        identify(item.path, file)
    return item.path


def content_hash(path: str) -> bytes:
    """Return the sha256 of the file at ``path``, or raise :class:`ImageError`."""
    with open_file(path) as file:
        return _sha256(path, file.fileno())


def decode(path: str, frame: Frame, rules: DecodeRules = DECODE_RULES) -> NDArray[np.uint8]:
    """Return the image at ``path`` as (height, width, 3) uint8, or raise :class:`ImageError`."""
    with open_file(path) as file:
        return decode_stream(path, file, frame, rules)


def decode_stream(
    name: str, file: BinaryIO, frame: Frame, rules: DecodeRules = DECODE_RULES
) -> NDArray[np.uint8]:
    """Do what :func:`decode` does with an open file, which errors call ``name``."""
    return _decode(name, file, identify(name, file), frame, rules).values


def decode_open(
    name: str, image: Image.Image, frame: Frame, rules: DecodeRules = DECODE_RULES
) -> NDArray[np.uint8]:
    """Do what :func:`decode` does with an image in memory, which stays as it is."""
    _refuse_huge(name, image.size, image.width * image.height, rules)
    try:
        orientation = _orientation(image)
        return render(image.copy(), frame, orientation)
    except Exception as error:  # the decode boundary: it may be read from its file only now
        raise refusal(name, error) from error


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as (height, width, 3) uint8, and the ``size`` (width, height) that it had before.

    ``damaged`` says that not all of it could be decoded.
    """

    values: NDArray[np.uint8]
    size: tuple[int, int]
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An open image file; size, time and content hash are of what :meth:`decode` reads."""

    path: str
    size: int
    mtime_ns: int
    sha256: bytes
    _file: BufferedReader
    _image: Image.Image
    _rules: DecodeRules
    _descriptor: int
    _stamp: tuple[int, int, int]

    def decode(self, frame: Frame) -> Pixels:
        """Return the pixels, once, or raise :class:`ImageError`."""
        pixels = _decode(self.path, self._file, self._image, frame, self._rules)
        if _stamp(facts_of(self.path, self._descriptor)) != self._stamp:
            raise ImageUnavailable(self.path, "was changed while it was read")
        return pixels


@contextmanager
def opened(path: str, rules: DecodeRules = DECODE_RULES) -> Iterator[OpenImage]:
    """Open and hash the file at ``path``, or raise :class:`ImageError` if it is no image."""
    with open_file(path) as file, open(os.dup(file.fileno()), "rb") as again:
        facts = facts_of(path, again.fileno())
        image = identify(path, file)  # some decoders close the file
        if image.format not in _JPEG | {"SVG"}:  # which may be decoded at a smaller scale
            _refuse_huge(path, image.size, image.width * image.height, rules)
        sha256 = _sha256(path, again.fileno())
        whose = path, facts.st_size, mtime_ns(facts), sha256
        yield OpenImage(*whose, file, image, rules, again.fileno(), _stamp(facts))


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


def thumbnail(path: str, side: int, rules: DecodeRules = DECODE_RULES) -> Pixels:
    """Return the image with its aspect ratio kept, fitting into ``side`` x ``side``."""
    with open_file(path) as file:
        return _decode(path, file, identify(path, file), Frame(side, side), rules, keep_aspect=True)


def dimensions(path: str) -> tuple[int, int]:
    """Return (width, height) of the upright image at ``path``, without its pixels."""
    with open_file(path) as file, closing(identify(path, file)) as image:
        size = image.size
        return size[::-1] if _orientation(image) in SIDEWAYS else size


def _decode(
    path: str,
    file: BinaryIO,
    image: Image.Image,
    frame: Frame,
    rules: DecodeRules,
    *,
    keep_aspect: bool = False,
) -> Pixels:
    whole, damaged = image.size, False
    try:
        if keep_aspect:
            scale = min(frame.width / whole[0], frame.height / whole[1])
            frame = Frame(max(1, round(whole[1] * scale)), max(1, round(whole[0] * scale)))
        held = _drafted(file, image, frame.size)
        _refuse_huge(path, whole, held, rules)
        with _alone(image, held):
            if held > MAX_PIXELS:
                _make_room(image)
            try:
                form = _form(image, frame, keep_aspect=keep_aspect)
                pixels = _scaled(path, file, image, form, rules)
            except (OSError, SyntaxError) as error:
                if not rules.accept_damaged:
                    raise
                part, damaged = _part(path, file, image, frame.size, error), True
                form = _form(part, frame, keep_aspect=keep_aspect)
                pixels = render(part, *form)
    except ImageError:
        raise
    except Exception as error:  # the decode boundary: hostile files raise anything
        # Tracebacks would keep what the decoder has in memory.
        error.with_traceback(None).__cause__ = error.__context__ = None
        name = image.format if image.format in _UPRIGHT_FORMATS - {"TIFF"} else ""
        raise refusal(path, error, name or "") from error
    return Pixels(pixels, whole[::-1] if form[1] in SIDEWAYS else whole, damaged)


def _form(image: Image.Image, frame: Frame, *, keep_aspect: bool) -> tuple[Frame, int]:
    """Return the frame of the upright image, and the orientation in which it is stored."""
    orientation = _orientation(image)
    return frame.turned() if keep_aspect and orientation in SIDEWAYS else frame, orientation


def _part(
    path: str, file: BinaryIO, image: Image.Image, size: tuple[int, int], error: Exception
) -> Image.Image:
    """Return what is there of an image that is not whole, or raise the error if that is nothing."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    if image.format in _JPEG and "progressive" in image.info:  # or no scan would be shown
        file.seek(0)
        image = identify(path, io.BytesIO(file.read(LARGEST) + b"\xff\xd9"))
        image.draft(None, size)
    elif image.format in _JPEG | {"PNG"} and isinstance(image, PillowFile):
        image.tile = []  # or it would be decoded once more
    else:
        raise error
    image.load()
    if is_blank(image):
        raise error
    return image


def _make_room(image: Image.Image) -> None:
    """Take the memory for a TIFF of any size; Pillow would look at a limit of its own first."""
    if isinstance(image, PillowFile) and image.format == "TIFF":
        sideways = image.getexif().get(_ORIENTATION) in SIDEWAYS
        image.im = Image.new(image.mode, image.size[::-1] if sideways else image.size).im


def _drafted(file: BinaryIO, image: Image.Image, size: tuple[int, int]) -> int:
    """Prepare decoding for a size; return how many pixels will be in memory at once.

    A JPEG is decoded at the least scale that is large enough, and an SVG drawn. But where a JPEG
    comes in several scans, what they say of all its pixels is kept.
    """
    pixels = image.width * image.height
    image.draft(None, size)
    if image.format == "SVG":
        return size[0] * size[1]
    if image.format in _JPEG and not (pixels > _LARGE_PIXELS and has_scans(file)):
        return image.width * image.height
    return pixels


def _refuse_huge(path: str, size: tuple[int, int], pixels: int, rules: DecodeRules) -> None:
    """Raise :class:`ImageError` if so many ``pixels`` are too many: they could fill the memory."""
    if pixels > rules.max_pixels:
        raise ImageError(
            path,
            f"{size[0]}x{size[1]} pixels exceed the limit of {rules.max_pixels}; see --max-pixels",
        )


@contextmanager
def _alone(image: Image.Image, pixels: int) -> Iterator[None]:
    """Release the pixels at the end; large images are in memory one at a time."""
    with _LARGE if pixels > _LARGE_PIXELS else nullcontext(), closing(image):
        yield


def _scaled(
    path: str,
    file: BinaryIO,
    image: Image.Image,
    form: tuple[Frame, int],
    rules: DecodeRules,
) -> NDArray[np.uint8]:
    """Return upright pixels, of a JPEG from a smaller scale if it can be decoded at one.

    Their ``form`` is the frame, and the orientation in which the image is stored.
    """
    try:
        pixels = render(image, *form)
    except OSError:
        if image.format not in _JPEG:
            raise
    else:
        if image.format in _JPEG and may_lack_pixels(file, image):
            whole(path, file, form[0].size)
        return pixels
    with suppress(OSError):  # a lossless JPEG cannot be decoded at a smaller scale
        return _at_its_own_scale(path, file, form, rules)
    return render(whole(path, file, form[0].size), *form)


def _at_its_own_scale(
    path: str, file: BinaryIO, form: tuple[Frame, int], rules: DecodeRules
) -> NDArray[np.uint8]:
    """Return upright pixels of an image; raise OSError if it is too large."""
    file.seek(0)
    image = identify(path, file)
    pixels = image.width * image.height
    if pixels > min(rules.max_pixels, MAX_PIXELS):
        raise OSError("it is too large")
    with _LARGE if pixels > _LARGE_PIXELS else nullcontext():
        return render(image, *form)


def _orientation(image: Image.Image) -> int:
    if image.format in _UPRIGHT_FORMATS:
        return 1  # their readers turn them
    if image.format == "PNG":
        image.load()  # or `getexif` would, and a second attempt takes damaged pixels for sound
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - part of the decode boundary: bad EXIF is no reason to refuse
        return 1
