"""The encoder: an ONNX file and how to feed it."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError
from imgsim.files import sha256_file

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


class Encoder:
    """The encoder whose files are in ``directory``; safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._model = directory / MODEL_NAME
        path = directory / FEED_NAME
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != 1:
                raise EncoderError(f"{path}: written by a newer imgsim; upgrade imgsim")
            self.feed = Feed(**fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{path}: cannot be read: {error}") from error

    def fingerprint(self) -> str:
        """Return the sha256 of the ONNX file as 64 hexadecimal digits."""
        try:
            return sha256_file(self._model)
        except OSError as error:
            raise EncoderError(f"{self._model}: cannot be read: {error.strerror}") from error

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
        name = self._session.get_inputs()[0].name
        for i in range(len(pixels)):
            latents[i] = self._session.run(None, {name: pixels[i : i + 1].astype(np.float32)})[0]
        return latents

    @cached_property
    def _session(self) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        import onnxruntime  # noqa: PLC0415 - only those who encode pay for it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                self._model.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except (OSError, *_onnx_errors()) as error:
            raise EncoderError(f"{self._model}: cannot be loaded: {error}") from error


def _onnx_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    return state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf
