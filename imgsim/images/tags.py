"""What the tags of a TIFF say about its pixels."""

from dataclasses import dataclass
from typing import BinaryIO

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _BANDS = 256, 257, 258, 262, 274, 277
_EXTRA, _KIND, _DNG_VERSION = 338, 339, 50706
_FLOAT = 3


@dataclass(frozen=True)
class TiffLayout:
    """The pixels of a TIFF's first page, as they are stored.

    ``photometric`` and ``orientation`` are numbers of the standard, and ``extra`` what they say of
    the bands beyond colours. ``is_dng`` says that it is a DNG.
    """

    width: int
    height: int
    bands: int
    bits: int
    photometric: int
    extra: tuple[int, ...]
    orientation: int
    is_float: bool
    is_dng: bool

    @property
    def bytes(self) -> int:
        """Return how many bytes the decoded pixels take."""
        return self.width * self.height * self.bands * ((self.bits + 7) // 8)

    @property
    def name(self) -> str:
        """Return what to call a TIFF of this kind."""
        bands = "1 band" if self.bands == 1 else f"{self.bands} bands"
        return f"a TIFF of {bands} of {self.bits}-bit {'floats' if self.is_float else 'integers'}"


def tiff_layout(file: BinaryIO) -> TiffLayout:
    """Return the layout of the first page of a TIFF, or raise what Pillow does."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2  # noqa: PLC0415 - only TIFFs need it

    file.seek(0)
    head = file.read(8)
    tags = ImageFileDirectory_v2(head + file.read(8) if head[2:3] == b"+" else head)
    file.seek(tags.next)
    tags.load(file)

    def first(tag: int, otherwise: int) -> int:
        value = tags.get(tag, otherwise)
        return int(value[0] if isinstance(value, tuple) else value)

    extra = tags.get(_EXTRA, ())
    width, height = first(_WIDTH, 0), first(_HEIGHT, 0)
    if min(width, height) < 1:
        raise SyntaxError("the TIFF has no pixels")
    return TiffLayout(
        width=width,
        height=height,
        bands=first(_BANDS, 1),
        bits=first(_BITS, 1),
        photometric=first(_PHOTOMETRIC, 1),
        extra=tuple(map(int, extra if isinstance(extra, tuple) else (extra,))),
        orientation=first(_ORIENTATION, 1),
        is_float=first(_KIND, 1) == _FLOAT,
        is_dng=_DNG_VERSION in tags,
    )
