"""An image as the encoder sees it, and as simple descriptors do."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode
from imgsim.images.descriptors import histogram_of, pixels_of
from imgsim.options import DecodeRules

_SIDE = 128  # of the images that the baselines describe, whatever the encoder


class Descriptions(NamedTuple):
    """An image in three ways: embedding, 32x32 pixels, and histogram, each (d,) float32."""

    embedding: NDArray[np.float32]
    pixels: NDArray[np.float32]
    histogram: NDArray[np.float32]


def describe(path: str, encoder: Encoder, rules: DecodeRules) -> Descriptions:
    """Return the descriptions of the image at ``path``, or raise :class:`ImageError`."""
    pixels = decode(path, encoder.preprocessing.height, encoder.preprocessing.width, rules)
    embedding = embedding_of(path, pixels, encoder)
    image = decode(path, _SIDE, _SIDE, rules)
    return Descriptions(embedding, pixels_of(image), histogram_of(image))
