"""An image that another package than Pillow decodes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.images.render import eight_bits, stretched

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess


class Picture(Image.Image):
    """An upright image of a known size, which ``pixels`` decodes when it is loaded.

    It gets the size (width, height) that is wanted; what it returns is mostly larger, and becomes
    this image.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        pixels: Callable[[tuple[int, int]], Image.Image],
    ) -> None:
        super().__init__()
        self.format = name
        self._size = self._wanted = size
        self._pixels = pixels

    def draft(
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:
        """Take note of the size that is wanted."""
        self._wanted = size or self._wanted
        return super().draft(mode, size)

    def load(self) -> "PixelAccess | None":
        """Decode the pixels, once."""
        if self._im is None:
            image = self._pixels(self._wanted)
            image.load()
            self.im, self._mode, self._size = image.im, image.mode, image.size
        return super().load()


def joined(values: NDArray[np.generic], colours: int, alpha: int | None) -> Image.Image:
    """Return an image of (height, width, bands) of any type of number.

    The first ``colours``, 1 or 3, are grey or red, green and blue; ``alpha`` is another, or none.
    """
    bands = [_image(band) for band in np.moveaxis(_bytes(values[..., :colours]), -1, 0)]
    if alpha is not None:
        bands.append(_image(_opacity(values[..., alpha])))
    return Image.merge(("L", "LA", "RGB", "RGBA")[len(bands) - 1], bands)


def _image(band: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(band))


def _bytes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return cast(NDArray[np.uint8], values)
    if values.dtype == np.uint16:
        return eight_bits(cast(NDArray[np.uint16], values)).astype(np.uint8)
    return stretched(values.astype(np.float32)).astype(np.uint8)


def _opacity(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return alpha as bytes; the greatest value of its type is opaque, of floats 1."""
    most = np.iinfo(values.dtype.str).max if values.dtype.kind in "iu" else 1.0
    shares = np.clip(np.nan_to_num(values.astype(np.float32) / most), 0, 1)
    opacity: NDArray[np.uint8] = (255 * shares).round().astype(np.uint8)
    return opacity
