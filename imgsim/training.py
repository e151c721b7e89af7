"""Train an encoder on image files: split, fit, check, save."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim import figures
from imgsim.autoencoder import (
    RECONSTRUCTION,
    create,
    encoder_of,
    export_onnx,
    has_bfloat16,
    mixed_precision,
    set_seed,
)
from imgsim.checkpoints import Checkpoints, TrainingState
from imgsim.encoder import MODEL_NAME, Encoder, Feed, write_feed
from imgsim.errors import EncoderError, ImageError, TrainingDiverged
from imgsim.finish import weight_of_colours
from imgsim.fitting import Fit, fit
from imgsim.images import decode, is_image
from imgsim.last_layers import finished
from imgsim.settings import TrainingSettings
from imgsim.types import EpochRecord, ImageFile, Refusal, TrainingProgress

_COMPARED = 16
_MOST_HELD_OUT = 2_000  # an epoch of 20,000 images is followed by them
_TOLERANCE = 1e-4
_SAMPLED = 5_000  # images to which the last layers are fitted
_JUDGED = 3_000  # images that say how much colours count
_STACKED = 1 << 29  # bytes of images in one array
_CACHED = 1 << 30  # bytes of decoded images
_AT_ONCE = 64  # images decoded by several threads


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went; :class:`TrainingReport` explains the fields."""

    fit: Fit
    images: int
    refused: tuple[Refusal, ...]
    compared: int
    onnx_difference: float
    colours: str
    name: str | None


def train(
    found: Iterable[ImageFile | ImageError],
    settings: TrainingSettings | None,
    directory: Path,
    checkpoints: Checkpoints,
    on_progress: Callable[[TrainingProgress], None],
    name: str | None,
) -> Trained:
    """Train on the images among the files found and write the encoder's files into ``directory``.

    They are model.keras, encoder.onnx, encoder.json, history.csv and two pictures. The ONNX encoder
    is accepted only if its latents agree with those of Keras on validation images. Without
    ``settings`` the training goes on of which there are ``checkpoints``, and which has its name;
    those of another one are removed.
    """
    state = checkpoints.load() if settings is None else None
    settings = state.settings if state is not None else settings or TrainingSettings()
    images = _Images(found, settings.image_size)
    split = images.split(settings)
    images.first(split[0], 1)  # or it raises before anything is built
    if state is None:
        if settings.colours == "auto":
            judged = images.decoded(split[0], _JUDGED)
            settings = replace(settings, colours=weight_of_colours(judged))
        checkpoints.clear()
        state = TrainingState(settings, images.fingerprint(), name)
    elif state.images != images.fingerprint():
        raise EncoderError("the images are not those that the training began with")
    set_seed(settings.seed)
    with mixed_precision(enabled=settings.contrast > 0 and has_bfloat16()):
        model = create(settings)
    fitted = fit(model, images.load, split, state, checkpoints, on_progress)
    autoencoder = create(settings)  # in float32
    autoencoder.set_weights(model.get_weights())
    fitted_to = images.first(split[0], _SAMPLED)
    encoder = finished(encoder_of(autoencoder), fitted_to, settings)

    autoencoder.save(directory / "model.keras")
    export_onnx(encoder, directory / MODEL_NAME)
    write_feed(directory, Feed(settings.image_size, settings.image_size, encoder.output.shape[1]))
    _write_history(directory / "history.csv", fitted.history)
    figures.draw_history(directory / "history.png", fitted.history)
    sample = images.first(split[1], _COMPARED)
    outputs = autoencoder.predict_on_batch(sample.astype(np.float32))[RECONSTRUCTION]
    figures.draw_reconstructions(
        directory / "reconstructions.png", sample, np.rint(255 * outputs).astype(np.uint8)
    )
    difference = _difference(encoder, Encoder(directory), sample)
    return Trained(
        fit=fitted,
        images=len(images.paths),
        refused=images.refused(),
        compared=len(sample),
        onnx_difference=difference,
        colours=settings.colours,
        name=state.name,
    )


class _Images:
    """The image files of a training run, decoded when asked for."""

    def __init__(self, found: Iterable[ImageFile | ImageError], side: int) -> None:
        self.paths: list[str] = []
        self._side = side
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._refused: dict[str, str] = {}
        for item in found:
            if isinstance(item, ImageError):
                self._refused[item.path] = item.reason
            elif is_image(item.path):
                self.paths.append(item.path)
            elif item.claimed:
                self._refused[item.path] = "not an image in a known format"

    def fingerprint(self) -> str:
        """Return a checksum of the paths."""
        return hashlib.sha256(b"\0".join(map(os.fsencode, self.paths))).hexdigest()

    def split(self, settings: TrainingSettings) -> tuple[list[int], list[int]]:
        """Return the numbers of the training and of the validation images, at least one of each.

        The first validation image can be decoded. Raises :class:`EncoderError` if that cannot be.
        """
        n = len(self.paths)
        if n < 2:
            raise EncoderError(
                f"training needs at least 2 images, found {n}{self._first_refused()}"
            )
        order: list[int] = np.random.default_rng(settings.seed).permutation(n).tolist()
        held_out = min(n - 1, _MOST_HELD_OUT, max(1, round(n * settings.validation_split)))
        for place, number in enumerate(order):
            with suppress(ImageError):
                self.load(number)
                order.insert(0, order.pop(place))
                return order[held_out:], order[:held_out]
        raise EncoderError(f"none of the images can be decoded{self._first_refused()}")

    def load(self, number: int) -> NDArray[np.uint8]:
        """Return image ``number`` as (side, side, 3) uint8 or raise :class:`ImageError`."""
        if number in self._cache:
            return self._cache[number]
        path = self.paths[number]
        try:
            pixels = decode(path, self._side, self._side)
        except ImageError as error:
            self._refused[path] = error.reason
            raise
        if len(self._cache) * pixels.nbytes < _CACHED:
            self._cache[number] = pixels
        return pixels

    def decoded(self, numbers: Sequence[int], most: int) -> Iterator[NDArray[np.uint8]]:
        """Yield up to ``most`` of the images that can be decoded."""

        def found(number: int) -> list[NDArray[np.uint8]]:
            with suppress(ImageError):
                return [self.load(number)]
            return []

        with ThreadPoolExecutor() as pool:
            starts = range(0, len(numbers), _AT_ONCE)
            parts = (pool.map(found, numbers[start : start + _AT_ONCE]) for start in starts)
            yield from islice(chain.from_iterable(chain.from_iterable(parts)), most)

    def first(self, numbers: Sequence[int], most: int) -> NDArray[np.uint8]:
        """Return up to ``most`` of the images that can be decoded, (n, side, side, 3) uint8.

        They are fewer if they would take more than half a gigabyte. Raises :class:`EncoderError` if
        there are none.
        """
        found = list(self.decoded(numbers, min(most, _STACKED // (3 * self._side**2) or 1)))
        if not found:
            raise EncoderError(f"none of the training images can be decoded{self._first_refused()}")
        return np.stack(found)

    def refused(self) -> tuple[Refusal, ...]:
        """Return the files that could not be decoded, sorted by path."""
        return tuple(Refusal(path, reason) for path, reason in sorted(self._refused.items()))

    def _first_refused(self) -> str:
        """Return what to say of it at the end of an error."""
        return "".join(f"; {each.path}: {each.reason}" for each in self.refused()[:1])


def _difference(ours: Any, exported: Encoder, sample: NDArray[np.uint8]) -> float:  # noqa: ANN401
    """Return the greatest absolute difference of the latents, or raise if rounding is no excuse."""
    latents = ours.predict_on_batch(sample.astype(np.float32))
    if not np.isfinite(latents).all():  # ReLU swallows NaN, so the loss can stay finite
        raise TrainingDiverged("the latents are not finite; try a lower --learning-rate")
    difference = float(np.abs(latents - exported.encode(sample)).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(latents).max())):
        raise EncoderError(f"the ONNX encoder differs from Keras by {difference:g}; not accepted")
    return difference


def _write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)
