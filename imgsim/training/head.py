"""The head of an encoder in Keras; ``imgsim.training.head_fit`` fits its parameters."""

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from imgsim.options import TrainingSettings
from imgsim.training.head_fit import Affine, palette, relevant_directions

_COLOUR_SIDE = 32  # of the image whose colours are counted
_SHARES = {"none": 0.0, "little": 0.05, "some": 0.3, "much": 0.7}  # in the square of a length
_LEAST_VARIANCE = 1e-4  # of rows of unit length; what is less is rounding
_BATCH = 64


def with_head(
    encoder: keras.Model, images: NDArray[np.uint8], settings: TrainingSettings
) -> keras.Model:
    """Return the encoder with the head that the settings ask for.

    They are fitted to ``images`` (n, height, width, 3). Directions are left out if there are no
    more images than that, or if these are all alike.
    """
    x = encoder.output
    if settings.unit:
        x = layers.UnitNormalization()(x)
    share = _SHARES[settings.colours]
    colours = palette(images, settings.seed) if share else None
    if colours is not None and len(colours.bias) > 1:
        shares = _shares(encoder.input, colours)
        x = layers.Concatenate()([(1 - share) ** 0.5 * x, share**0.5 * shares])
    if 0 < settings.principal < len(images):
        rows = _outputs(keras.Model(encoder.input, x), images)
        if rows.var(axis=0).sum() > _LEAST_VARIANCE:
            directions = relevant_directions(rows, settings.principal)
            x = _affine(layers.Dense(len(directions.bias)), directions, x)
            x = layers.UnitNormalization()(x) if settings.unit else x
    model = keras.Model(encoder.input, x, name="encoder")
    model(np.zeros((1, *model.input.shape[1:]), np.float32))  # Keras exports what was called
    return model


def _outputs(model: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    return np.concatenate([model.predict_on_batch(b.astype(np.float32)) for b in batches])


def _affine(layer: layers.Layer, parameters: Affine, x: Any) -> Any:  # noqa: ANN401 - untyped Keras
    y = layer(x)
    layer.set_weights([parameters.weights.reshape(layer.kernel.shape), parameters.bias])
    return y


def _shares(image: Any, colours: Affine) -> Any:  # noqa: ANN401 - untyped Keras
    """Return the roots of the shares of colours (n, k) of images; their length is 1.

    Their Euclidean distance is the Hellinger distance times the root of 2.
    """
    factor = max(1, image.shape[1] // _COLOUR_SIDE), max(1, image.shape[2] // _COLOUR_SIDE)
    x = layers.Reshape((-1, 3))(layers.AveragePooling2D(factor)(image))
    x = layers.Softmax()(_affine(layers.Dense(len(colours.bias)), colours, x))
    return keras.ops.sqrt(layers.GlobalAveragePooling1D()(x))
