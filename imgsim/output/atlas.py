"""Thumbnails of many images, side by side in a few JPEG files."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.errors import ImageError
from imgsim.images.decode import thumbnail
from imgsim.options import STORED_RULES
from imgsim.parallel import in_threads
from imgsim.results import Progress

_WIDTH = 1_024  # of an atlas, in pixels
_SIDES = 64, 48, 32, 24, 16  # multiples of the 8 pixels that JPEG takes together
_PIXELS = 60_000_000  # of all atlases: some 20 MB
_QUALITY = 70


def side_for(count: int) -> int:
    """Return the width of the thumbnails of so many images in pixels; 0 if they are too many."""
    return next((side for side in _SIDES if count * side * side <= _PIXELS), 0)


def columns_of(count: int) -> int:
    """Return how many thumbnails of so many images are beside each other, and above each other."""
    return _WIDTH // (side_for(count) or _WIDTH)


class Atlas:
    """The thumbnails of images, in order.

    ``sizes`` (n, 2) uint8 are their widths and heights, 0 where there is none; ``missing`` counts
    these. Both are complete once all pictures were taken.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.sizes = np.zeros((len(paths), 2), np.uint8)
        self.missing = 0
        self._paths = paths
        self._side, self._columns = side_for(len(paths)), columns_of(len(paths))

    def pictures(self, on_progress: Progress) -> Iterator[bytes]:
        """Yield JPEG files, each filled row by row."""
        if not self._side:
            return
        each, side = self._columns**2, self._columns * self._side
        sheet = np.zeros((side, side, 3), np.uint8)
        for image, pixels in enumerate(in_threads(self._thumbnail, self._paths)):
            if isinstance(pixels, ImageError):
                self.missing += 1
            else:
                self._paste(sheet, image, pixels)
            on_progress(image + 1, len(self._paths))
            if (image + 1) % each == 0 or image + 1 == len(self._paths):
                yield _jpeg(sheet)
                sheet[:] = 0

    def _thumbnail(self, path: str) -> NDArray[np.uint8]:
        return thumbnail(path, self._side, STORED_RULES).values

    def _paste(self, sheet: NDArray[np.uint8], image: int, pixels: NDArray[np.uint8]) -> None:
        """Put a thumbnail into its place; what it leaves of that gets the colours of its edge."""
        height, width = pixels.shape[:2]
        self.sizes[image] = width, height
        row, column = divmod(image % self._columns**2, self._columns)
        beyond = (0, self._side - height), (0, self._side - width), (0, 0)
        top, left = row * self._side, column * self._side
        tile = np.pad(pixels, beyond, mode="edge")
        sheet[top : top + self._side, left : left + self._side] = tile


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
        return file.getvalue()
