"""Train an encoder on image files: split, fit, check, save."""

import csv
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim import figures
from imgsim.autoencoder import create_autoencoder, encoder_of, export_onnx, fit, set_seed
from imgsim.encoder import MODEL_NAME, Encoder, Feed, write_feed
from imgsim.errors import EncoderError, ImageError, TrainingDiverged
from imgsim.images import decode, is_image
from imgsim.settings import SHRINK, TrainingSettings
from imgsim.types import (
    EncoderInfo,
    EpochRecord,
    ImageFile,
    Refusal,
    TrainingProgress,
    TrainingReport,
)

_COMPARED = 16
_TOLERANCE = 1e-4
_LATENT_VALUES = 1_024
_LATENT_CHANNELS = 4, 64


def train(
    found: Iterable[ImageFile | ImageError],
    settings: TrainingSettings,
    directory: Path,
    on_progress: Callable[[TrainingProgress], None],
    adopt: Callable[[Path], EncoderInfo],
) -> TrainingReport:
    """Train on the images among the files found; write files into ``directory`` and ``adopt`` it.

    The files are model.keras, encoder.onnx, encoder.json, history.csv and two pictures. The ONNX
    encoder is accepted only if its latents agree with those of Keras on validation images.
    """
    images = _Images(found, settings.image_size)
    if len(images.paths) < 2:
        raise EncoderError(f"training needs at least 2 images, found {len(images.paths)}")
    side, channels = settings.image_size, latent_channels(settings)
    set_seed(settings.seed)
    autoencoder = create_autoencoder(side, side, 3, channels)
    split = images.split(settings)
    fitted = fit(autoencoder, images.load, split, settings, on_progress)

    encoder = encoder_of(autoencoder)
    autoencoder.save(directory / "model.keras")
    export_onnx(encoder, directory / MODEL_NAME)
    write_feed(directory, Feed(side, side, encoder.output.shape[1]))
    _write_history(directory / "history.csv", fitted.history)

    sample = images.first(split[1], _COMPARED)
    latents = encoder.predict_on_batch(sample.astype(np.float32))
    if not np.isfinite(latents).all():  # ReLU swallows NaN, so the loss can stay finite
        raise TrainingDiverged("the latents are not finite; try a lower --learning-rate")
    exported = Encoder(directory)
    outputs = autoencoder.predict_on_batch(sample.astype(np.float32))
    figures.draw_history(directory / "history.png", fitted.history)
    figures.draw_reconstructions(
        directory / "reconstructions.png", sample, np.rint(255 * outputs).astype(np.uint8)
    )
    return TrainingReport(
        encoder=adopt(directory),
        images=len(images.paths),
        refused=images.refused(),
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        interrupted=fitted.interrupted,
        compared=len(sample),
        onnx_difference=_difference(latents, exported.encode(sample)),
    )


def latent_channels(settings: TrainingSettings) -> int:
    """Return the number of latent channels that the settings ask for or leave to us."""
    if settings.latent_channels is not None:
        return settings.latent_channels
    least, most = _LATENT_CHANNELS
    return min(most, max(least, _LATENT_VALUES // (settings.image_size // SHRINK) ** 2))


class _Images:
    """The image files of a training run, decoded when asked for."""

    def __init__(self, found: Iterable[ImageFile | ImageError], side: int) -> None:
        self.paths: list[str] = []
        self._side = side
        self._refused: dict[str, str] = {}
        for item in found:
            if isinstance(item, ImageError):
                self._refused[item.path] = item.reason
            elif is_image(item.path):
                self.paths.append(item.path)
            elif item.claimed:
                self._refused[item.path] = "not an image in a known format"

    def split(self, settings: TrainingSettings) -> tuple[list[int], list[int]]:
        """Return the numbers of the training and of the validation images, at least one of each.

        The first validation image can be decoded.
        """
        n = len(self.paths)
        order: list[int] = np.random.default_rng(settings.seed).permutation(n).tolist()
        held_out = min(n - 1, max(1, round(n * settings.validation_split)))
        for place, number in enumerate(order):
            with suppress(ImageError):
                self.load(number)
                order.insert(0, order.pop(place))
                return order[held_out:], order[:held_out]
        raise EncoderError("none of the images can be decoded")

    def load(self, number: int) -> NDArray[np.uint8]:
        """Return image ``number`` as (side, side, 3) uint8 or raise :class:`ImageError`."""
        path = self.paths[number]
        try:
            return decode(path, self._side, self._side)
        except ImageError as error:
            self._refused[path] = error.reason
            raise

    def first(self, numbers: Sequence[int], most: int) -> NDArray[np.uint8]:
        """Return up to ``most`` of the images that can be decoded, (n, side, side, 3) uint8."""
        found: list[NDArray[np.uint8]] = []
        for number in numbers:
            if len(found) == most:
                break
            with suppress(ImageError):
                found.append(self.load(number))
        return np.stack(found)

    def refused(self) -> tuple[Refusal, ...]:
        """Return the files that could not be decoded, sorted by path."""
        return tuple(Refusal(path, reason) for path, reason in sorted(self._refused.items()))


def _difference(ours: NDArray[np.float32], exported: NDArray[np.float32]) -> float:
    """Return the greatest absolute difference, or raise if it is more than rounding explains."""
    difference = float(np.abs(ours - exported).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise EncoderError(f"the ONNX encoder differs from Keras by {difference:g}; not accepted")
    return difference


def _write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)
