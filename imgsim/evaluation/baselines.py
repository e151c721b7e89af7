"""An image as the encoder sees it, and as simple descriptors do."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode
from imgsim.images.descriptors import histogram_of, pixels_of
from imgsim.images.frame import Frame
from imgsim.options import DecodeRules

_SIDE = 128  # of the images that the baselines describe, whatever the encoder


class Descriptions(NamedTuple):
    """An image in several ways: 32x32 pixels, a histogram, and an embedding by each encoder.

    Each is (d,) float32.
    """

    pixels: NDArray[np.float32]
    histogram: NDArray[np.float32]
    embeddings: tuple[NDArray[np.float32], ...]


def describe(path: str, encoders: Sequence[Encoder], rules: DecodeRules) -> Descriptions:
    """Return the descriptions of the image at ``path``, or raise :class:`ImageError`."""
    embeddings = []
    for encoder in encoders:
        pixels = decode(path, encoder.preprocessing.frame, rules)
        embeddings.append(embedding_of(path, pixels, encoder))
    image = decode(path, Frame(_SIDE, _SIDE), rules)
    return Descriptions(pixels_of(image), histogram_of(image), tuple(embeddings))
