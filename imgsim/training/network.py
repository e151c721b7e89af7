"""The Keras autoencoder, and what is made of Keras models."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import: its log is for developers

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from imgsim.errors import EncoderError
from imgsim.options import SHRINK, TrainingSettings

_STEM = 4  # a first convolution of stride 4 costs a fraction of two of stride 2
_MOMENTUM = 0.9  # of batch statistics: trainings are short
_HIDDEN, _PROJECTED = 512, 128  # values of the projection head
_BARE = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}

_GRID = 4  # height and width of the latent of a residual autoencoder
_LATENT_VALUES = 1_024
_LATENT_CHANNELS = 4, 64
_LEAST_VARIANCE = 1e-12  # of features that are all alike


LATENT, RECONSTRUCTION, PROJECTION = "latent", "reconstruction", "projection"


def create(settings: TrainingSettings) -> keras.Model:
    """Return the autoencoder that the settings ask for, with random weights."""
    side, channels = settings.image_size, latent_channels(settings)
    if settings.contrast:
        return create_residual_autoencoder(side, side, channels)
    return create_autoencoder(side, side, 3, channels)


def latent_channels(settings: TrainingSettings) -> int:
    """Return the number of latent channels that the settings ask for or leave to us."""
    if settings.latent_channels:
        return settings.latent_channels
    least, most = _LATENT_CHANNELS
    grid = _GRID if settings.contrast else settings.image_size // SHRINK
    return min(most, max(least, _LATENT_VALUES // grid**2))


def create_autoencoder(
    height: int,
    width: int,
    channels: int,
    latent_channels: int,
    filters: tuple[int, int, int] = (32, 64, 128),
) -> keras.Model:
    """Return a convolutional autoencoder with random weights.

    Input: (n, height, width, channels) float32 in 0..255. Output: the same shape in 0..1. The layer
    ``latent`` gives the flattened (n, height/16 * width/16 * latent_channels) float32 latent.
    Convolutions of stride 4, 2 and 2 encode; transpose convolutions of stride 2, 2 and 4 decode.
    """
    _refuse_odd_sizes(height, width)
    small, middle, large = filters
    image = keras.Input((height, width, channels), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = _convolution(small, 2 * _STEM, _STEM)(x)
    x = _convolution(middle, 3, 2)(x)
    x = _convolution(large, 3, 2)(x)
    grid = layers.Conv2D(latent_channels, 3, padding="same")(x)
    latent = layers.Flatten(name=LATENT)(grid)
    x = layers.Reshape(grid.shape[1:])(latent)
    x = _transpose(large, 3, 2)(x)
    x = _transpose(middle, 3, 2)(x)
    x = _convolution(small, 3, 1)(x)
    x = layers.Conv2DTranspose(
        channels,
        2 * _STEM,
        strides=_STEM,
        padding="same",
        activation="sigmoid",
        name=RECONSTRUCTION,
    )(x)
    return keras.Model(image, {RECONSTRUCTION: x}, name="autoencoder")


def create_residual_autoencoder(
    height: int, width: int, latent_channels: int, filters: tuple[int, int, int] = (32, 64, 128)
) -> keras.Model:
    """Return an autoencoder with residual blocks and a projection head, with random weights.

    Input: (n, height, width, 3) float32 in 0..255. Outputs: ``reconstruction``, the same shape in
    0..1, and ``projection`` (n, 128) float32. Whatever the size of the image, the first convolution
    makes 16 x 16 of it, and the layer ``latent`` gives the flattened 4 x 4 x latent_channels.
    """
    _refuse_odd_sizes(height, width)
    strides = height // SHRINK, width // SHRINK
    kernel = 2 * strides[0], 2 * strides[1]
    image = keras.Input((height, width, 3), name="image")
    x = layers.Rescaling(1 / 64, -2)(image)
    x = _normalised(layers.Conv2D(filters[0], kernel, strides=strides, **_BARE))(x)
    for number, width_of_level in enumerate(filters):
        if number:
            x = _normalised(layers.Conv2D(width_of_level, 3, strides=2, **_BARE))(x)
        x = _residual(x, width_of_level)
    grid = layers.Conv2D(latent_channels, 1)(x)
    latent = layers.Flatten(name=LATENT)(grid)
    hidden = _normalised(layers.Dense(_HIDDEN, use_bias=False))(latent)
    projection = layers.Dense(_PROJECTED, dtype="float32", name=PROJECTION)(hidden)
    x = layers.Reshape(grid.shape[1:])(latent)
    x = _reconstruction(x, filters[1::-1], strides)  # half as wide as the encoder: half the work
    outputs = {RECONSTRUCTION: x, PROJECTION: projection}
    return keras.Model(image, outputs, name="autoencoder")


def create_decoder(
    features: NDArray[np.float32], side: int, filters: tuple[int, int, int] = (128, 128, 64)
) -> keras.Model:
    """Return a decoder with random weights, from what a network gives for images to these.

    Input: rows like ``features`` (n, d) float32, whose mean and variance scale it. Output:
    ``reconstruction`` (n, side, side, 3) float32 in 0..1.
    """
    _refuse_odd_sizes(side, side)
    latent = keras.Input(features.shape[1:], name=LATENT)
    variance = np.full(features.shape[1:], features.var(axis=0).mean() + _LEAST_VARIANCE)
    x = layers.Normalization(mean=features.mean(axis=0), variance=variance)(latent)
    x = layers.Dense(_GRID * _GRID * filters[0], activation="relu", **_HE)(x)
    x = layers.Reshape((_GRID, _GRID, filters[0]))(x)
    x = _reconstruction(x, filters[1:], (side // SHRINK, side // SHRINK))
    return keras.Model(latent, {RECONSTRUCTION: x}, name="decoder")


def _refuse_odd_sizes(height: int, width: int) -> None:
    if height % SHRINK or width % SHRINK or min(height, width) < SHRINK:
        raise EncoderError(f"the image size must be a multiple of {SHRINK}, not {height}x{width}")


def _normalised(layer: layers.Layer) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:  # noqa: ANN401 - Keras ships no types
        return layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM)(layer(x)))

    return apply


def _residual(x: Any, filters: int) -> Any:  # noqa: ANN401 - Keras ships no types
    """Return a basic block: He et al., Deep Residual Learning for Image Recognition, 2015."""
    y = _normalised(layers.Conv2D(filters, 3, **_BARE))(x)
    y = layers.BatchNormalization(momentum=_MOMENTUM)(layers.Conv2D(filters, 3, **_BARE)(y))
    return layers.ReLU()(layers.Add()([x, y]))


def _reconstruction(x: Any, filters: tuple[int, ...], strides: tuple[int, int]) -> Any:  # noqa: ANN401 - as above
    """Return the image (n, 16 strides, 16 strides, 3) in 0..1 of a grid of 4 x 4."""
    for width in filters:
        x = _transpose(width, 3, 2)(x)
    pixels = layers.Conv2D(
        3 * strides[0] * strides[1], 3, padding="same", kernel_initializer="zeros"
    )  # random weights would leave their texture in reconstructions
    x = _pixels(pixels(x), strides)
    return layers.Activation("sigmoid", dtype="float32", name=RECONSTRUCTION)(x)


def _pixels(x: Any, strides: tuple[int, int]) -> Any:  # noqa: ANN401 - Keras ships no types
    """Return an image whose pixels are the channels of a grid.

    It costs a fraction of a transpose convolution. Source: Shi et al., Real-Time Single Image and
    Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network, 2016.
    """
    _, height, width, _ = x.shape
    x = layers.Reshape((height, width, *strides, 3))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    return layers.Reshape((height * strides[0], width * strides[1], 3))(x)


def set_seed(seed: int) -> None:
    """Seed the random numbers of Python, NumPy and TensorFlow."""
    keras.utils.set_random_seed(seed)


@contextmanager
def mixed_precision(*, enabled: bool) -> Iterator[None]:
    """Build models that compute in bfloat16 and keep their weights in float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if enabled else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def has_bfloat16() -> bool:
    """Say whether the processor computes in bfloat16, as far as Linux tells."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in facts or "amx_bf16" in facts


def _convolution(filters: int, kernel: int, stride: int) -> layers.Layer:
    return layers.Conv2D(filters, kernel, strides=stride, padding="same", activation="relu", **_HE)


def _transpose(filters: int, kernel: int, stride: int) -> layers.Layer:
    return layers.Conv2DTranspose(
        filters, kernel, strides=stride, padding="same", activation="relu", **_HE
    )


_HE = {"kernel_initializer": "he_normal"}


def encoder_of(autoencoder: keras.Model) -> keras.Model:
    """Return the part of the autoencoder from the image to the flattened latent."""
    encoder = keras.Model(autoencoder.input, autoencoder.get_layer(LATENT).output, name="encoder")
    encoder(np.zeros((1, *encoder.input.shape[1:]), np.float32))  # Keras exports what was called
    return encoder
