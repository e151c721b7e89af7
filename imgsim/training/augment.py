"""Random augmentations of images: crops, mirrored or not, in other colours."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from imgsim.images.descriptors import YIQ

_LEAST_AREA = 0.2
_STRETCH = 4 / 3
_JITTERED = 0.8  # share of the augmentations whose colours vary

_YIQ = YIQ.astype(np.float32)
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True, slots=True)
class Jitter:
    """How much colours vary between augmentations.

    Brightness, contrast and saturation by factors of 1 -+ ``factor`` at most, hue by ``turn`` of a
    full turn; ``grey`` is the share without colours.
    """

    factor: float
    turn: float
    grey: float


_ANY, _OWN = Jitter(0.8, 0.2, 0.2), Jitter(0.2, 0.01, 0.0)
JITTERS = {"none": _ANY, "little": _ANY, "some": _ANY, "much": _OWN}


def augmented(
    images: tf.Tensor, side: int, jitter: Jitter, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a random augmentation of each image, and the same crop with its own colours.

    ``images`` are (n, height, width, 3) float32 in 0..255; what is returned is (n, side, side, 3).
    The same ``seed`` (2,) int64 gives the same ones.
    """
    n = tf.shape(images)[0]
    draws = tf.random.stateless_uniform((11, n), seed)
    crops = tf.image.crop_and_resize(images, _boxes(draws[:5]), tf.range(n), (side, side))
    return tf.clip_by_value(_recoloured(crops, draws[5:], jitter), 0.0, 255.0), crops


def _between(low: float, high: float, draw: tf.Tensor) -> tf.Tensor:
    return low + (high - low) * draw


def _boxes(draws: tf.Tensor) -> tf.Tensor:
    """Return boxes (n, 4) of a fifth of the image or more, half of them mirrored."""
    area = _between(_LEAST_AREA, 1.0, draws[0])
    ratio = tf.exp(_between(-np.log(_STRETCH), np.log(_STRETCH), draws[1]))
    height = tf.minimum(tf.sqrt(area / ratio), 1.0)
    width = tf.minimum(tf.sqrt(area * ratio), 1.0)
    top, left = draws[2] * (1 - height), draws[3] * (1 - width)
    mirrored = draws[4] < 0.5
    begin = tf.where(mirrored, left + width, left)
    end = tf.where(mirrored, left, left + width)
    return tf.stack([top, begin, top + height, end], axis=1)


def _recoloured(images: tf.Tensor, draws: tf.Tensor, jitter: Jitter) -> tf.Tensor:
    """Return images with other brightness, contrast, saturation and hue: an affine map of RGB.

    Saturation scales, and hue turns, the plane of I and Q in YIQ (the NTSC matrix).
    """
    jittered = tf.cast(draws[0] < _JITTERED, tf.float32)
    brightness, contrast, saturation = (
        1 + jittered * _between(-jitter.factor, jitter.factor, draws[i]) for i in (1, 2, 3)
    )
    saturation = tf.where(draws[4] < jitter.grey, 0.0, saturation)
    turn = 2 * np.pi * jittered * _between(-jitter.turn, jitter.turn, draws[5])
    along, across = saturation * tf.cos(turn), saturation * tf.sin(turn)
    one, zero = tf.ones_like(along), tf.zeros_like(along)
    rows = [one, zero, zero, zero, along, -across, zero, across, along]
    turned = tf.reshape(tf.stack(rows, axis=1), (-1, 3, 3))
    matrix = _YIQ @ turned @ _RGB * (brightness * contrast)[:, np.newaxis, np.newaxis]
    grey = tf.reduce_mean(images, axis=(1, 2, 3)) * brightness * (1 - contrast)
    pixels = tf.reshape(images, (tf.shape(images)[0], -1, 3)) @ matrix
    return tf.reshape(pixels, tf.shape(images)) + grey[:, np.newaxis, np.newaxis, np.newaxis]
