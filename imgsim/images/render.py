"""From an image of any mode to upright RGB pixels of a size."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile

from imgsim.images.frame import Frame

SIDEWAYS = frozenset({5, 6, 7, 8})
"""The EXIF orientations that swap width and height."""

_WHITE, _BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
_DARKNESS = 16  # of 255, on average, that is seen on white
_JUDGED = 32  # pixels in a row and in a column from which that is judged
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_FADING = 64  # frames of an animation that may be of one colour before something is seen

_FACTORS = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # by Pillow's names of how they are stored

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def render(image: Image.Image, frame: Frame, orientation: int) -> NDArray[np.uint8]:
    """Return the upright pixels (height, width, 3) uint8 of an image in a frame."""
    if orientation in SIDEWAYS:
        frame = frame.turned()
    image = _plain(image)
    ground = _ground(image) if image.mode == "RGBA" else _WHITE
    box = frame.box(image.size)
    image = image.resize(frame.size, Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    if image.mode == "F":
        values = np.asarray(image)
        image = _grey(stretched(values, *finite_range(values)))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return np.asarray(turned(image.convert("RGB"), orientation), dtype=np.uint8)


def scale_transparency(image: ImageFile) -> None:
    """Let a PNG name its transparent colour as its pixels will, which Pillow makes 8 bits of."""
    factor = _FACTORS.get(str(image.tile[0].args)) if image.format == "PNG" and image.tile else None
    colour = image.info.get("transparency")
    if factor is not None and isinstance(colour, int):
        image.info["transparency"] = int(colour * factor)
    elif factor is not None and isinstance(colour, tuple):
        image.info["transparency"] = tuple(int(value * factor) for value in colour)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image upright that is stored in an orientation of EXIF."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def _ground(image: Image.Image) -> tuple[int, int, int, int]:
    """Return what an RGBA image is seen on: white, or black if what is visible is almost white.

    It does not depend on the size that the image is resized to.
    """
    side = _JUDGED, _JUDGED
    *colours, alpha = image.resize(side, Image.Resampling.BOX, reducing_gap=1.0).split()
    weights = np.asarray(alpha, np.float32)
    if not weights.any():
        return _WHITE
    darkness = 255 - np.mean([np.asarray(band, np.float32) for band in colours], axis=0)
    return _WHITE if np.average(darkness, weights=weights) > _DARKNESS else _BLACK


def _plain(image: Image.Image) -> Image.Image:
    """Return a frame as RGB, as RGBA if anything is transparent, or grey as L or F (32 bits).

    It is the first one, or of an animation that fades in the first in which there is something.
    """
    image.load()
    if image.format in _ANIMATED and getattr(image, "is_animated", False) and is_blank(image):
        _seek_something(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _grey16(image)
    if image.mode in {"I", "F"}:
        return image.convert("F")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # only inPlace=True returns nothing
        return converted
    if image.mode in {"1", "L"} and not image.has_transparency_data:
        return image.convert("L")  # a quarter of what red, green and blue take in memory
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def is_blank(image: Image.Image) -> bool:
    """Say whether an image is of one colour."""
    extremes = image.getextrema()
    pairs = extremes if isinstance(extremes[0], tuple) else [extremes]
    return all(low == high for low, high in pairs)


def _seek_something(image: Image.Image) -> None:
    """Go to the first frame that is not of one colour, or back to the first one."""
    for number in range(1, _FADING):
        try:
            image.seek(number)
            image.load()
        except (EOFError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            break  # the end, or damage after the first
        if not is_blank(image):
            return
    image.seek(0)
    image.load()


def _grey16(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8 bits, with alpha if a value of it is transparent."""
    values = np.asarray(image).astype(np.uint16)
    grey, hidden = _grey(eight_bits(values, bit_depth(values))), image.info.get("transparency")
    if hidden is None:
        return grey
    return Image.merge("LA", (grey, _grey(255 * (values != hidden)))).convert("RGBA")


def _grey(values: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def bit_depth(values: NDArray[np.uint16]) -> int:
    """Return how many bits are in use, as if they were 8, 12 or 16."""
    depth = int(values.max(initial=0)).bit_length()
    return 8 if depth <= 8 else 12 if depth <= 12 else 16


def eight_bits(values: NDArray[np.uint16], depth: int) -> NDArray[np.uint16]:
    """Return the upper 8 of so many bits; without their depth, many values would be black."""
    return values >> np.uint16(depth - 8)


def finite_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the least and the greatest finite value; infinities if there is none."""
    finite = np.isfinite(values)
    return (
        float(np.min(values, where=finite, initial=np.inf)),
        float(np.max(values, where=finite, initial=-np.inf)),
    )


def stretched(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Return values from ``low`` to ``high`` as 0 to 255; what is no number is 0."""
    if low > high:
        return np.zeros_like(values)
    bright = np.clip(values, np.float32(low), np.float32(high))
    bright /= np.float32(2)  # or floats may not hold the difference
    bright -= np.float32(low / 2)
    bright /= np.float32((high / 2 - low / 2) or 1.0)
    bright *= np.float32(255)
    bright[np.isnan(bright)] = 0
    return bright
