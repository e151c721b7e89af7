"""Images mirrored, and turned by quarters."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.images.decode import opened
from imgsim.options import STORED_RULES, DecodeRules

Pose = tuple[bool, int]
"""Whether an image is mirrored, left to right, and then by how many quarters it is turned."""

UPRIGHT: Pose = (False, 0)


def poses(*, mirror: bool, rotate: bool) -> list[Pose]:
    """Return the poses in which images are looked for, the upright one first."""
    return list(product((False, True) if mirror else (False,), range(4) if rotate else (0,)))


def embed_poses(
    path: str,
    chosen: Sequence[Pose],
    encoder: Encoder,
    rules: DecodeRules = STORED_RULES,
    content: bytes | None = None,
) -> tuple[bytes, NDArray[np.float32]]:
    """Return the hash of an image file and its embeddings (poses, dim) in some poses.

    Raises :class:`ImageError` if it cannot be decoded, or has another than a given ``content``.
    """
    with opened(path, rules) as image:
        if content is not None and image.sha256 != content:
            raise ImageError(path, "has other content by now")
        pixels = image.decode(encoder.preprocessing.frame).values
    forms = (posed(pixels, pose) for pose in chosen)
    return image.sha256, np.stack([embedding_of(path, each, encoder) for each in forms])


def posed(pixels: NDArray[np.uint8], pose: Pose) -> NDArray[np.uint8]:
    """Return pixels (height, width) or (height, width, 3) in a pose, of the same size."""
    mirrored, quarters = pose
    turned = np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))
    if turned.shape == pixels.shape:
        return turned
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(turned).resize((width, height), Image.Resampling.BILINEAR))
