"""An ONNX model with one image input."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.device import fall_back, has_driver
from imgsim.encoder.preprocessing import Preprocessing
from imgsim.errors import EncoderError
from imgsim.options import Device

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


_NUMBERS = {*_TYPES, "tensor(bool)"} | {
    f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


# A model in a collection is whole; one that names other files of this machine is not to have them.
_WEIGHTS_FROM = "session.model_external_initializers_file_folder_path"


_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# The same algorithm each time, in whole float32.
_STEADY = {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}


def devices() -> tuple[str, ...]:
    """Return what can compute embeddings here."""
    import onnxruntime as ort  # noqa: PLC0415 - only those who encode pay for it

    return ("cpu", "cuda") if _CUDA in ort.get_available_providers() and has_driver() else ("cpu",)


def _providers(device: Device) -> list[str | tuple[str, dict[str, str]]]:
    """Return what ONNX Runtime is to compute with, what comes first before the rest."""
    import onnxruntime as ort  # noqa: PLC0415 - as above

    if device == "cuda" and _CUDA in ort.get_available_providers():
        return [(_CUDA, _STEADY), _CPU]
    return [_CPU]


class Model:
    """An ONNX model with one image input; safe to use from several threads.

    On ``device`` cuda it falls back to the CPU where there is none. Its ``shape`` and those of its
    ``outputs`` have a size, a name, or None for each axis. Errors begin with ``name``.
    """

    def __init__(self, content: bytes, name: str, device: Device = "auto") -> None:
        import onnxruntime as ort  # noqa: PLC0415 - only those who encode pay for it
        from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry(_WEIGHTS_FROM, os.devnull)
        self.failures: tuple[type[Exception], ...] = (
            *(state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf),
            *(state.NotImplemented, state.RuntimeException),
            UnicodeDecodeError,  # from names that are not UTF-8, and messages with these
        )
        self.name = name
        try:
            self._session = ort.InferenceSession(content, options, providers=_providers(device))
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            self.properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except self.failures as error:
            raise EncoderError(f"{name}: cannot be loaded: {first_line(error)}") from error
        if device == "cuda" and self._session.get_providers()[0] != _CUDA:
            fall_back("embeddings")
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise EncoderError(f"{name}: must have one input, the image; it has {names or 'none'}")
        self._input = inputs[0].name
        self.shape: list[Any] = inputs[0].shape
        if inputs[0].type not in _TYPES or len(self.shape) != 4:
            raise EncoderError(
                f"{name}: the input must be 4 axes of float or uint8 values, not "
                f"{inputs[0].type} {self.shape}"
            )
        self.dtype = _TYPES[inputs[0].type]
        self.outputs = {each.name: each.shape for each in outputs if each.type in _NUMBERS}
        if not self.outputs:
            raise EncoderError(f"{name}: has no output of numbers")

    def feed(
        self, image: NDArray[np.uint8], preprocessing: Preprocessing
    ) -> dict[str, NDArray[np.generic]]:
        """Return what the model gets for one image (height, width, 3), by the name of its input.

        A model that takes a fixed number of images gets as many copies.
        """
        tensor = preprocessing.tensor(image).astype(self.dtype)
        shape = preprocessing.shape(self._batch)
        return {self._input: np.ascontiguousarray(np.broadcast_to(tensor, shape))}

    @property
    def _batch(self) -> int:
        return max(1, self.shape[0]) if isinstance(self.shape[0], int) else 1

    def run(self, image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
        """Return what the model gives for one image (height, width, 3), flattened (d,) float32."""
        batch = self._batch
        output = preprocessing.output or next(iter(self.outputs))
        try:
            (values,) = self._session.run([output], self.feed(image, preprocessing))
        except self.failures as error:
            raise EncoderError(f"{self.name}: fails on an image: {first_line(error)}") from error
        values = np.asarray(values)
        if values.ndim and values.shape[0] == batch:
            values = values[0]
        elif batch > 1:
            raise EncoderError(f"{self.name}: the output {output} has no row for each image")
        embedding: NDArray[np.float32] = values.astype(np.float32).ravel()
        if preprocessing.normalize:
            length = np.sqrt(np.square(embedding, dtype=np.float64).sum())
            embedding = (embedding / (length or 1.0)).astype(np.float32)
        return embedding


def first_line(error: Exception) -> str:
    """Return what an error says, as far as one line holds it."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def muted(level: int) -> Iterator[None]:
    """Let tools of others log nothing of ``level`` or less."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
