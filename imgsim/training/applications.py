"""Networks of Keras Applications as ONNX files."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from imgsim.encoder.applications import Application
from imgsim.encoder.onnx_model import first_line
from imgsim.errors import EncoderError
from imgsim.files import writing
from imgsim.training.export import KERAS_ERRORS, export_onnx


def export_application(application: Application, weights: Path, target: Path) -> None:
    """Write a network with the weights in a file, from the image to the pooled features.

    The file is one that Keras publishes or writes, with the layer of classes or without. Raises
    :class:`EncoderError` if it is that of another network. Nothing is downloaded.
    """
    try:
        model = _loaded(application, weights)
    except (*KERAS_ERRORS, tf.errors.OpError) as error:
        raise EncoderError(
            f"{weights}: no weights of {application.function}: {first_line(error)}"
        ) from error
    model(np.zeros((1, application.side, application.side, 3), np.float32))
    with writing(target):
        export_onnx(model, target)


def _loaded(application: Application, weights: Path) -> keras.Model:
    make = getattr(keras.applications, application.function)
    shape = application.side, application.side, 3
    options: dict[str, Any] = {"weights": None, "input_shape": shape}
    if application.without:
        options["include_preprocessing"] = False
    model = make(include_top=False, pooling="avg", **options)
    try:
        model.load_weights(weights)
    except ValueError:
        whole = make(include_top=True, **options)
        whole.load_weights(weights)
        model.set_weights(whole.get_weights()[: len(model.get_weights())])  # the classes come last
    return model
