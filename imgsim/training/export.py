"""Keras models as ONNX files."""

import logging
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from imgsim.encoder.onnx_model import first_line, muted
from imgsim.errors import EncoderError
from imgsim.files import writing

# What Keras and tf2onnx raise, beside TensorFlow's own, for files and layers that are not for them.
KERAS_ERRORS = OSError, TypeError, ValueError, KeyError, AttributeError, RuntimeError


def export_onnx(encoder: keras.Model, path: Path) -> None:
    """Write the encoder as an ONNX file.

    Where tf2onnx cannot simplify it, it says so as an error, and writes it as it is.
    """
    with warnings.catch_warnings(), muted(logging.ERROR):
        warnings.simplefilter("ignore")  # tf2onnx probes for names that NumPy 2 deprecates
        encoder.export(path, format="onnx", verbose=False)


def export_layer(path: Path, layer: str, side: int | None, target: Path) -> None:
    """Write the part of the Keras model at ``path`` from its input to a layer as an ONNX file.

    ``side`` is that of images, if the model takes any. Code in the file (Lambda layers) is not run.
    """
    try:
        model = keras.models.load_model(path, compile=False)
        output = model.get_layer(layer).output
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
            raise EncoderError(f"{path}: must have one input, the image")
        part = keras.Model(model.inputs[0], output)
        shape = [size or side or 32 for size in (1, *model.inputs[0].shape[1:])]
        part(np.zeros(shape, np.float32))
        with writing(target):
            export_onnx(part, target)
    except (*KERAS_ERRORS, tf.errors.OpError) as error:
        raise EncoderError(f"{path}: {first_line(error)}") from error
