"""The encoder: an ONNX file and how to feed it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError
from imgsim.settings import Channels, Layout, Scale

MODEL_NAME = "encoder.onnx"
FEED_NAME = "encoder.json"

_FORMAT = 1
_SCALES: dict[Scale, float] = {"0..255": 1.0, "0..1": 1 / 255}
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_NUMBERS = {*_TYPES, "tensor(bool)"} | {
    f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True, slots=True)
class Feed:
    """How to feed the model; ``docs/format.md`` gives the JSON form.

    Pixels are scaled, then ``mean`` is subtracted and the rest divided by ``std``, both by channel
    in the order of ``channels``. The output named ``output`` (empty: the only one) is flattened to
    ``dim`` float32 values, and brought to unit length if ``normalize`` says so.
    """

    height: int
    width: int
    dim: int
    layout: Layout = "nhwc"
    scale: Scale = "0..255"
    channels: Channels = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    output: str = ""
    normalize: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        chosen = (self.layout, Layout), (self.scale, Scale), (self.channels, Channels)
        for value, known in chosen:
            if value not in get_args(known):
                raise ValueError(f"{value}: must be one of {', '.join(get_args(known))}")
        if min(self.height, self.width, self.dim) < 1:
            raise ValueError("the height, the width and the dimension must be at least 1")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("mean and std must have a value for each of 3 channels")
        if not np.isfinite([*self.mean, *self.std]).all() or 0 in self.std:
            raise ValueError("mean and std must be finite, and std not 0")

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the model's input for so many images."""
        if self.layout == "nchw":
            return batch, 3, self.height, self.width
        return batch, self.height, self.width, 3

    def tensor(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return an image (height, width, 3) as the model wants it, without the batch axis."""
        gain = _SCALES[self.scale] / np.array(self.std)
        offset = -np.array(self.mean) / np.array(self.std)
        ordered = image[..., ::-1] if self.channels == "bgr" else image
        values = np.multiply(ordered, gain.astype(np.float32), dtype=np.float32)
        values += offset.astype(np.float32)
        return values.transpose(2, 0, 1) if self.layout == "nchw" else values


def write_feed(directory: Path, feed: Feed) -> None:
    """Write ``encoder.json`` into ``directory``."""
    text = json.dumps({"format": _FORMAT, **asdict(feed)}, indent=2)
    (directory / FEED_NAME).write_text(text + "\n", encoding="utf-8")


def read_feed(directory: Path) -> Feed:
    """Return what ``encoder.json`` in ``directory`` says."""
    path = directory / FEED_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != _FORMAT:
            raise EncoderError(f"{path}: written by a newer imgsim; upgrade imgsim")
        triples = {name: tuple(fields[name]) for name in ("mean", "std") if name in fields}
        return Feed(**fields | triples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"{path}: cannot be read: {error}") from error


class Model:
    """An ONNX model with one image input; safe to use from several threads.

    Its ``shape`` and those of its ``outputs`` have a size, a name, or None for each axis. Errors
    begin with ``name``.
    """

    def __init__(self, content: bytes, name: str) -> None:
        import onnxruntime as ort  # noqa: PLC0415 - only those who encode pay for it
        from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._failures: tuple[type[Exception], ...] = (
            *(state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf),
            *(state.NotImplemented, state.RuntimeException),
        )
        self.name = name
        try:
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise EncoderError(f"{name}: cannot be loaded: {first_line(error)}") from error
        inputs = self._session.get_inputs()
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
        outputs = self._session.get_outputs()
        self.outputs = {each.name: each.shape for each in outputs if each.type in _NUMBERS}
        if not self.outputs:
            raise EncoderError(f"{name}: has no output of numbers")

    def latent(self, image: NDArray[np.uint8], feed: Feed) -> NDArray[np.float32]:
        """Return what the model gives for one image (height, width, 3), flattened (d,) float32.

        A model that takes a fixed number of images gets as many copies.
        """
        batch = max(1, self.shape[0]) if isinstance(self.shape[0], int) else 1
        tensor = feed.tensor(image).astype(self.dtype)
        tensors = np.ascontiguousarray(np.broadcast_to(tensor, feed.shape(batch)))
        output = feed.output or next(iter(self.outputs))
        try:
            (values,) = self._session.run([output], {self._input: tensors})
        except self._failures as error:
            raise EncoderError(f"{self.name}: fails on an image: {first_line(error)}") from error
        values = np.asarray(values)
        if values.ndim and values.shape[0] == batch:
            values = values[0]
        elif batch > 1:
            raise EncoderError(f"{self.name}: the output {output} has no row for each image")
        latent: NDArray[np.float32] = values.astype(np.float32).ravel()
        if feed.normalize:
            length = np.sqrt(np.square(latent, dtype=np.float64).sum())
            latent = (latent / (length or 1.0)).astype(np.float32)
        return latent


def first_line(error: Exception) -> str:
    """Return what an error says, as far as one line holds it."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Encoder:
    """The encoder whose files are in ``directory``; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self.feed = read_feed(directory)
        path = directory / MODEL_NAME
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
        self._model = Model(content, str(path))
        self.fingerprint = hashlib.sha256(content).hexdigest()
        told = zip(self._model.shape[1:], self.feed.shape(1)[1:], strict=True)
        fits = all(size == asked for size, asked in told if isinstance(size, int))
        if (
            not fits
            or (self.feed.output or next(iter(self._model.outputs))) not in self._model.outputs
        ):
            raise EncoderError(f"{directory}: {FEED_NAME} does not describe {MODEL_NAME}")

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the latents (n, dim) float32 of ``pixels`` (n, height, width, 3) uint8.

        Each image runs through the network alone and on one thread, so its latent has the same bits
        whatever else is in the call.
        """
        expected = (self.feed.height, self.feed.width, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise EncoderError(
                f"pixels must be (n, {expected[0]}, {expected[1]}, 3) uint8, "
                f"not {pixels.shape} {pixels.dtype}"
            )
        latents = np.empty((len(pixels), self.feed.dim), np.float32)
        for row, image in zip(latents, pixels, strict=True):
            latent = self._model.latent(image, self.feed)
            if len(latent) != len(row):
                raise EncoderError(
                    f"{self._model.name}: gives {len(latent)} values for an image, not {len(row)}"
                )
            row[:] = latent
        return latents
