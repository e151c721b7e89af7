"""Train an encoder on image files: split, fit, check, save."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.embed import encode_on_all_cores
from imgsim.encoder.encoder import MODEL_NAME, Encoder
from imgsim.encoder.head import attach
from imgsim.encoder.head_fit import (
    colour_evidence,
    fitted_head,
    pooled,
    weight_of_colours,
)
from imgsim.encoder.preprocessing import Preprocessing, inscribe, write_preprocessing
from imgsim.errors import EncoderError, TrainingDiverged
from imgsim.files import writing
from imgsim.options import HeadSettings, TrainingSettings
from imgsim.results import (
    EncoderInfo,
    EpochRecord,
    TrainingProgress,
    TrainingReport,
)
from imgsim.scores import Recognition
from imgsim.training.checkpoints import TrainingJob, TrainingState
from imgsim.training.dataset import batches
from imgsim.training.export import export_onnx
from imgsim.training.fit import fit
from imgsim.training.images import TrainingImages
from imgsim.training.network import (
    create,
    encoder_of,
    has_bfloat16,
    mixed_precision,
    set_seed,
)
from imgsim.training.outputs import BESIDES, write_outputs
from imgsim.training.selfcheck import isolation, recognition
from imgsim.training.stages import Stages

_COMPARED = 16
_CHECKED = 500
_TOLERANCE = 1e-4
_SAMPLED = 5_000  # images to which the head is fitted
_JUDGED = 3_000  # images that say how much colours count, and how isolated they are

_LOG = logging.getLogger(__name__)


def train(
    images: TrainingImages,
    begin: TrainingSettings | TrainingState,
    job: TrainingJob,
    publish: Callable[[str | None], EncoderInfo],
    on_progress: Callable[[TrainingProgress], None],
) -> TrainingReport:
    """Train on images and write the encoder's files, then ``publish``.

    They are model.keras, encoder.onnx, encoder.json, history.csv and two pictures, in the job's
    directory. The ONNX encoder is accepted only if its latents agree with those of Keras on
    validation images; then the head is attached. A training with settings begins, and removes the
    checkpoints of another; one with a state goes on from there. ``publish`` gets the name.
    """
    split, state = _prepared(images, begin, job)
    settings = state.settings
    set_seed(settings.seed)
    with mixed_precision(enabled=settings.contrast > 0 and has_bfloat16()):
        model = create(settings)
    stages = Stages(settings, on_progress)
    fitted = fit(model, partial(batches, images.load), split, state, job, stages.training)
    stages.enter("export")
    autoencoder = create(settings)  # in float32
    autoencoder.set_weights(model.get_weights())
    sample = images.first(split[1], _COMPARED)
    difference = _saved(job.directory, autoencoder, fitted.history, sample)
    stages.enter("head")
    _attach_head(job.directory, images.first(split[0], _SAMPLED), settings)
    stages.enter("check")
    recognised = _recognised(images.first([*split[1], *split[0]], _JUDGED), job, settings)
    info = publish(state.name)
    if not fitted.interrupted:
        job.checkpoints.clear()
    unseen = _unseen(images.readable(split[0]), fitted.history)
    return TrainingReport(
        encoder=info,
        images=sum(map(images.readable, split)) - unseen,
        unseen=unseen,
        refused=images.refused(),
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        interrupted=fitted.interrupted,
        compared=len(sample),
        onnx_difference=difference,
        colours=settings.colours,
        recognition=recognised,
    )


def _prepared(
    images: TrainingImages, begin: TrainingSettings | TrainingState, job: TrainingJob
) -> tuple[tuple[list[int], list[int]], TrainingState]:
    """Return the numbers of the images to train and to validate on, and where the training is."""
    settings = begin if isinstance(begin, TrainingSettings) else begin.settings
    split = images.split(settings)
    if isinstance(begin, TrainingState):
        return split, _resumed(images, begin)
    return split, _begun(images, split[0], settings, job)


def _unseen(images: int, history: Sequence[EpochRecord]) -> int:
    """Return how many of the images to train on were not seen in any epoch."""
    seen = sum(epoch.images_per_second * epoch.seconds for epoch in history)
    return max(0, images - round(seen))


def _begun(
    images: TrainingImages, numbers: Sequence[int], settings: TrainingSettings, job: TrainingJob
) -> TrainingState:
    """Return the state of a training that begins, and forget any other."""
    if settings.colours == "auto":
        judged = map(colour_evidence, images.decoded(numbers, _JUDGED))
        settings = replace(settings, colours=weight_of_colours(judged))
        _LOG.info("colours count %s, judged from the images", settings.colours)
    job.checkpoints.clear()
    return TrainingState(settings, images.fingerprint(), job.name)


def _resumed(images: TrainingImages, state: TrainingState) -> TrainingState:
    """Return the state of a training that goes on, or raise if its images are others."""
    if state.images != images.fingerprint():
        raise EncoderError(
            "the images are not those that the training began with: there are others, or some were "
            "changed; train anew without --resume"
        )
    return state


def _recognised(
    images: NDArray[np.uint8], job: TrainingJob, settings: TrainingSettings
) -> Recognition:
    """Return how many of the first images are recognised, and how isolated all are."""
    encoder = Encoder(job.directory)
    recognised = recognition(encoder.encode, images[:_CHECKED], settings.seed)
    return replace(recognised, isolation=isolation(encode_on_all_cores(encoder, images)))


def _attach_head(directory: Path, images: NDArray[np.uint8], settings: TrainingSettings) -> None:
    """Fit the head that the settings ask for to images, if they ask for any, and attach it."""
    asked = HeadSettings(settings.principal, settings.colours, settings.unit, settings.seed)
    if asked.dims or asked.unit:
        encoder = Encoder(directory)
        rows = encode_on_all_cores(encoder, images)
        attach(encoder, fitted_head(rows, map(pooled, images), asked), directory)


def _saved(
    directory: Path,
    autoencoder: keras.Model,
    history: Sequence[EpochRecord],
    sample: NDArray[np.uint8],
) -> float:
    """Write the files of an encoder without a head; return how far ONNX and Keras differ."""
    _, height, width, _ = sample.shape
    encoder = encoder_of(autoencoder)
    preprocessing = Preprocessing(height, width, encoder.output.shape[1])
    with writing(directory, BESIDES):
        export_onnx(encoder, directory / MODEL_NAME)
    write_outputs(directory, autoencoder, history, sample, sample.astype(np.float32))
    inscribe(directory / MODEL_NAME, preprocessing)
    write_preprocessing(directory, preprocessing)
    return _difference(encoder, Encoder(directory), sample)


def _difference(ours: Any, exported: Encoder, sample: NDArray[np.uint8]) -> float:  # noqa: ANN401
    """Return the greatest absolute difference of latents, or raise if rounding is no excuse."""
    latents = ours.predict_on_batch(sample.astype(np.float32))
    if not np.isfinite(latents).all():  # ReLU swallows NaN, so the loss can stay finite
        raise TrainingDiverged("the latents are not finite; try a lower --learning-rate")
    difference = float(np.abs(latents - exported.encode(sample)).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(latents).max())):
        raise EncoderError(f"the ONNX encoder differs from Keras by {difference:g}; not accepted")
    return difference
