"""The encoder: an ONNX file and how to feed it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError

MODEL_NAME = "encoder.onnx"
FEED_NAME = "encoder.json"


@dataclass(frozen=True, slots=True)
class Feed:
    """How to feed the model; ``docs/format.md`` gives the JSON form.

    Pixels go in as (1, height, width, 3) float32 in 0..255; ``dim`` float32 values come out.
    """

    height: int
    width: int
    dim: int
    layout: str = "nhwc"
    scale: str = "0..255"


def write_feed(directory: Path, feed: Feed) -> None:
    """Write ``encoder.json`` into ``directory``."""
    text = json.dumps({"format": 1, **asdict(feed)}, indent=2)
    (directory / FEED_NAME).write_text(text + "\n", encoding="utf-8")


def read_feed(directory: Path) -> Feed:
    """Return what ``encoder.json`` in ``directory`` says."""
    path = directory / FEED_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != 1:
            raise EncoderError(f"{path}: written by a newer imgsim; upgrade imgsim")
        return Feed(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path}: cannot be read: {error}") from error


class Encoder:
    """The encoder whose files are in ``directory``; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        import onnxruntime as ort  # noqa: PLC0415 - only those who encode pay for it
        from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

        self.feed = read_feed(directory)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        refused: tuple[type[Exception], ...] = (
            *(state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf),
            OSError,
        )
        path = directory / MODEL_NAME
        try:
            model = path.read_bytes()
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except refused as error:
            raise EncoderError(f"{path}: cannot be loaded: {error}") from error
        (image,), (latent,) = self._session.get_inputs(), self._session.get_outputs()
        shapes = image.shape[1:], latent.shape[1:]
        told = [self.feed.height, self.feed.width, 3], [self.feed.dim]
        if shapes != told or (self.feed.layout, self.feed.scale) != ("nhwc", "0..255"):
            raise EncoderError(f"{directory}: {FEED_NAME} does not describe {MODEL_NAME}")
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._input = image.name

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
        for i in range(len(pixels)):
            image = pixels[i : i + 1].astype(np.float32)
            latents[i] = self._session.run(None, {self._input: image})[0]
        return latents
