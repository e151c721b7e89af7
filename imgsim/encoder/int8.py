"""An encoder in integers: its convolutions and products in 8 bits, calibrated on images."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.encoder import MODEL_NAME, Encoder
from imgsim.encoder.onnx_model import first_line, muted
from imgsim.encoder.preprocessing import inscribe, write_preprocessing
from imgsim.errors import EncoderError
from imgsim.files import writing

# What the quantiser raises for models that are not for it, beside errors of ONNX Runtime.
_FAILURES: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, KeyError),
    *(AttributeError, IndexError, RuntimeError),
)


def quantised(encoder: Encoder, images: Sequence[NDArray[np.uint8]], directory: Path) -> Encoder:
    """Write an encoder of 8 bits into ``directory``, and return it.

    Activations have 8 bits over the range that ``images``, each (height, width, 3), give them;
    weights have 7, by channel, because processors without VNNI add two products in 16 bits. Raises
    :class:`EncoderError` if the model does not allow it.
    """
    from onnxruntime.quantization import (  # noqa: PLC0415 - it takes a second
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime ships no types
        def __init__(self) -> None:
            self._feeds = (encoder.feed(image) for image in images)

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            return next(self._feeds, None)

    target = directory / MODEL_NAME
    try:
        with muted(logging.WARNING), writing(directory):  # it gives advice to the root logger
            quantize_static(
                encoder.path,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
    except (*_FAILURES, *encoder.failures) as error:
        raise EncoderError(
            f"{encoder.path}: has no form in integers: {first_line(error)}"
        ) from error
    inscribe(target, encoder.preprocessing)
    write_preprocessing(directory, encoder.preprocessing)
    return Encoder(directory)
