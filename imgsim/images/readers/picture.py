"""An image that another package than Pillow decodes."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from imgsim.images.render import bit_depth, eight_bits, finite_range, stretched

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

_MOST_BYTES = 1 << 30  # of decoded pixels


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


def require_few_bytes(count: int) -> None:
    """Raise OSError if decoded pixels take so many bytes that they could fill the memory."""
    if count > _MOST_BYTES:
        raise OSError(f"its pixels take {count:,} bytes; the limit is {_MOST_BYTES:,}")


def joined(
    values: NDArray[np.generic],
    colours: int,
    alpha: int | None,
    *,
    is_multiplied: bool = False,
    white_is_zero: bool = False,
) -> Image.Image:
    """Return an image of (height, width, bands) of any type of number.

    The first ``colours``, 1 or 3, are grey or red, green and blue; ``alpha`` is another, or none,
    by which colours are multiplied already if ``is_multiplied``.
    """
    bands = [_image(band) for band in _bytes(values[..., :colours])]
    if white_is_zero:
        bands = [ImageChops.invert(band) for band in bands]
    if alpha is not None:
        bands.append(_image(_opacity(values[..., alpha])))
    mode = ("L", "LA", "RGB", "RGBA")[len(bands) - 1]
    if alpha is not None and is_multiplied:
        return Image.merge(mode[:-1] + "a", bands).convert(mode)
    return Image.merge(mode, bands)


def _image(band: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(band))


def _bytes(values: NDArray[np.generic]) -> Iterator[NDArray[np.uint8]]:
    """Yield the bands of an image as bytes, one by one: all at once could fill the memory."""
    bands = np.moveaxis(values, -1, 0)
    if values.dtype == np.uint8:
        yield from cast(NDArray[np.uint8], bands)
    elif values.dtype == np.uint16:
        depth = bit_depth(cast(NDArray[np.uint16], values))
        for band in bands:
            yield eight_bits(cast(NDArray[np.uint16], band), depth).astype(np.uint8)
    else:
        ranges = [finite_range(band.astype(np.float32)) for band in bands]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        for band in bands:
            yield stretched(band.astype(np.float32), low, high).astype(np.uint8)


def _opacity(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return alpha as bytes; the greatest value of its type is opaque, of floats 1."""
    most = np.iinfo(values.dtype.str).max if values.dtype.kind in "iu" else 1.0
    shares = np.clip(np.nan_to_num(values.astype(np.float32) / np.float32(most)), 0, 1)
    opacity: NDArray[np.uint8] = (255 * shares).round().astype(np.uint8)
    return opacity
