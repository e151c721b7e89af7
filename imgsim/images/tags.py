"""What the tags of a TIFF say about its pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _BANDS = 256, 257, 258, 262, 274, 277
_SUBFILE, _COMPRESSION, _PLANAR, _SUBFILES = 254, 259, 284, 330
_EXTRA, _KIND, _DEPTH, _DNG_VERSION = 338, 339, 32997, 50706
_FLOAT, _REDUCED, _UNCOMPRESSED, _SEPARATE = 3, 1, 1, 2
_SENSOR = {32803, 34892}  # photometric interpretations: a colour filter array, linear raw
_MOST_SUBFILES = 8


@dataclass(frozen=True)
class TiffLayout:
    """The pixels of a TIFF's first page, as they are stored.

    ``photometric`` and ``orientation`` are numbers of the standard, and ``extra`` what they say of
    the bands beyond colours. Of a volume ``depth`` is more than 1. Pillow takes one that
    ``is_misread`` for one of 8 bits. ``is_dng`` says that it is a DNG.
    """

    width: int
    height: int
    bands: int
    bits: int
    photometric: int
    extra: tuple[int, ...]
    orientation: int
    depth: int
    is_float: bool
    is_misread: bool
    is_dng: bool

    @property
    def bytes(self) -> int:
        """Return how many bytes the decoded pixels take."""
        return self.width * self.height * self.depth * self.bands * ((self.bits + 7) // 8)

    @property
    def name(self) -> str:
        """Return what to call a TIFF of this kind."""
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        return f"a TIFF of {bands} of {self.bits}-bit {'floats' if self.is_float else 'integers'}"


def tiff_layout(file: BinaryIO) -> TiffLayout:
    """Return the layout of the first page of a TIFF, or raise what Pillow does."""
    tags = _first_page(file)
    width, height = tags.first(_WIDTH, 0), tags.first(_HEIGHT, 0)
    if min(width, height) < 1:
        raise SyntaxError("the TIFF has no pixels")
    bands, bits = tags.first(_BANDS, 1), tags.first(_BITS, 1)
    is_separate = bands > 1 and tags.first(_PLANAR, 1) == _SEPARATE
    return TiffLayout(
        width=width,
        height=height,
        bands=bands,
        bits=bits,
        photometric=tags.first(_PHOTOMETRIC, 1),
        extra=tags.all(_EXTRA),
        orientation=tags.first(_ORIENTATION, 1),
        depth=max(1, tags.first(_DEPTH, 1)),
        is_float=tags.first(_KIND, 1) == _FLOAT,
        is_misread=is_separate and bits > 8 and tags.first(_COMPRESSION, 1) == _UNCOMPRESSED,
        is_dng=bool(tags.all(_DNG_VERSION)),
    )


def is_preview(file: BinaryIO) -> bool:
    """Say whether the first page of a TIFF is a preview of what a camera's sensor saw."""
    tags = _first_page(file)
    return tags.first(_SUBFILE, 0) == _REDUCED and any(
        part.first(_PHOTOMETRIC, 1) in _SENSOR for part in tags.subfiles()
    )


def _first_page(file: BinaryIO) -> "_Tags":
    file.seek(0)
    head = file.read(8)
    return _Tags(file, head + file.read(8) if head[2:3] == b"+" else head)


class _Tags:
    """The tags of a page, the first one or the one at a place in the file."""

    def __init__(self, file: BinaryIO, head: bytes, at: int | None = None) -> None:
        from PIL.TiffImagePlugin import ImageFileDirectory_v2  # noqa: PLC0415 - only TIFFs need it

        self._file, self._head = file, head
        self._values = ImageFileDirectory_v2(head)
        file.seek(self._values.next if at is None else at)
        self._values.load(file)

    def all(self, tag: int) -> tuple[int, ...]:
        """Return the numbers of a tag; none if it is not there."""
        found = self._values.get(tag, ())
        return tuple(map(int, found if isinstance(found, tuple | bytes) else (found,)))

    def first(self, tag: int, otherwise: int) -> int:
        """Return the first number of a tag."""
        return next(iter(self.all(tag)), otherwise)

    def subfiles(self) -> Iterator["_Tags"]:
        """Yield the tags of the pages below this one."""
        for at in self.all(_SUBFILES)[:_MOST_SUBFILES]:
            yield _Tags(self._file, self._head, at)
