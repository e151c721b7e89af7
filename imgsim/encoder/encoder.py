"""The encoder: an ONNX file and its preprocessing."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.onnx_model import Model
from imgsim.encoder.preprocessing import (
    PREPROCESSING_NAME,
    Preprocessing,
    inscribed,
    read_preprocessing,
    write_preprocessing,
)
from imgsim.errors import EncoderError, EncoderMismatch
from imgsim.options import Device
from imgsim.results import Damage

MODEL_NAME = "encoder.onnx"
_LARGEST = 2 << 30


class Encoder:
    """The encoder whose files are in ``directory``; safe to use from several threads.

    With a ``fingerprint``, a model that has another one is not loaded: that raises
    :class:`EncoderMismatch`.
    """

    def __init__(
        self, directory: Path, fingerprint: str | None = None, device: Device = "auto"
    ) -> None:
        self.path = path = directory / MODEL_NAME
        try:
            if path.stat().st_size > _LARGEST:
                raise EncoderError(f"{path}: is over 2 GB, which no ONNX model in one file is")
            content = path.read_bytes()
        except OSError as error:
            raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
        self.fingerprint = hashlib.sha256(content).hexdigest()
        if fingerprint not in {None, self.fingerprint}:
            raise EncoderMismatch(
                f"{path}: is not the encoder that made the embeddings: expected sha256 "
                f"{fingerprint}, found {self.fingerprint}"
            )
        self._model = Model(content, str(path), device)
        self.preprocessing = self._fed(directory)
        told = zip(self._model.shape[1:], self.preprocessing.shape(1)[1:], strict=True)
        fits = all(size == asked for size, asked in told if isinstance(size, int))
        if (
            not fits
            or (self.preprocessing.output or next(iter(self._model.outputs)))
            not in self._model.outputs
        ):
            raise EncoderError(f"{directory}: {PREPROCESSING_NAME} does not describe {MODEL_NAME}")

    def _fed(self, directory: Path) -> Preprocessing:
        """Return how the model is fed: as it says itself, or else as the file beside it says."""
        try:
            said = inscribed(self._model.properties)
        except (ValueError, TypeError) as error:
            raise EncoderError(f"{self._model.name}: says not how it is fed: {error}") from error
        return read_preprocessing(directory) if said is None else said

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """Return what ONNX Runtime raises for models that do not run."""
        return self._model.failures

    def feed(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Return what the model gets for an image (height, width, 3), by the name of its input."""
        return self._model.feed(image, self.preprocessing)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (n, dim) float32 of ``pixels`` (n, height, width, 3) uint8.

        Each image runs through the network alone and on one thread, so its embedding has the same
        bits whatever else is in the call.
        """
        expected = (self.preprocessing.height, self.preprocessing.width, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise EncoderError(
                f"pixels must be (n, {expected[0]}, {expected[1]}, 3) uint8, "
                f"not {pixels.shape} {pixels.dtype}"
            )
        embeddings = np.empty((len(pixels), self.preprocessing.dim), np.float32)
        for row, image in zip(embeddings, pixels, strict=True):
            embedding = self._model.run(image, self.preprocessing)
            if len(embedding) != len(row):
                raise EncoderError(
                    f"{self._model.name}: gives {len(embedding)} values for an image, "
                    f"not {len(row)}"
                )
            row[:] = embedding
        return embeddings


def encoder_damages(directory: Path, fingerprint: str, dim: int) -> list[Damage]:
    """Return what is wrong with the files of an encoder, if anything is."""
    path, expected = directory / MODEL_NAME, f"sha256 {fingerprint}, {dim} values"
    try:
        encoder = Encoder(directory, fingerprint)
        found = f"sha256 {encoder.fingerprint}, {encoder.preprocessing.dim} values"
    except EncoderError as error:
        found = str(error)
    if found != expected:
        return [Damage(str(path), expected, found)]
    return [] if _is_told(directory, encoder) else [_other(directory / PREPROCESSING_NAME)]


def renew_preprocessing(directory: Path, fingerprint: str) -> None:
    """Write ``encoder.json`` anew where it is not what the model says."""
    encoder = Encoder(directory, fingerprint)
    if not _is_told(directory, encoder):
        write_preprocessing(directory, encoder.preprocessing)


def _is_told(directory: Path, encoder: Encoder) -> bool:
    """Say whether ``encoder.json`` says how the model is fed."""
    try:
        return read_preprocessing(directory) == encoder.preprocessing
    except EncoderError:
        return False


def _other(path: Path) -> Damage:
    return Damage(str(path), "how the model says it is fed", "something else")
