"""Simple descriptions of an image, and the space in which its colours are compared."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

YIQ = np.array([[0.299, 0.596, 0.211], [0.587, -0.274, -0.523], [0.114, -0.322, 0.312]])
"""From RGB (3,) to luminance and chrominance: the NTSC matrix."""

_PIXELS = 32
_BINS = 16, 4, 4  # of hue, saturation and value


def pixels_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image (height, width, 3) as (3072,) float32 in 0..1, resized to 32x32."""
    small = Image.fromarray(image).resize((_PIXELS, _PIXELS), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32).ravel() / np.float32(255)


def histogram_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the roots of the shares of pixels in 16x4x4 bins of HSV, (256,) float32.

    The Euclidean distance of two of them is the Hellinger distance times the root of 2.
    """
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).reshape(-1, 3).astype(np.int64)
    bins = np.ravel_multi_index(tuple((hsv * _BINS // 256).T), _BINS)
    counts = np.bincount(bins, minlength=int(np.prod(_BINS)))
    shares: NDArray[np.float32] = np.sqrt(counts / len(bins)).astype(np.float32)
    return shares


def grey_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the grey pixels of an image resized to 32x32, (1024,) of mean 0 and deviation 1."""
    small = Image.fromarray(image).convert("L").resize((_PIXELS, _PIXELS))
    grey = np.asarray(small, np.float32).ravel()
    standard: NDArray[np.float32] = (grey - grey.mean()) / (grey.std() + np.float32(1))
    return standard
