"""Fit an autoencoder to images."""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import keras
import tensorflow as tf

from imgsim.errors import EncoderError
from imgsim.options import TrainingSettings
from imgsim.results import EpochRecord, TrainingProgress
from imgsim.training.callback import EpochRecorder, LearningRate, ProgressReporter, Run, Stopping
from imgsim.training.checkpoints import TrainingJob, TrainingState
from imgsim.training.dataset import EPOCH_IMAGES, steps_of_epoch
from imgsim.training.loss import nt_xent
from imgsim.training.network import PROJECTION, RECONSTRUCTION


class Feed(Protocol):
    """Gives batches of what is trained on, or validated on."""

    def __call__(
        self, numbers: Sequence[int], settings: TrainingSettings, *, training: bool
    ) -> tf.data.Dataset:
        """Return pairs of what the network gets and what its outputs are compared with."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a training run went; ``best_epoch`` (from 1) is the one whose weights were kept."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    interrupted: bool


def fit(
    autoencoder: keras.Model,
    feed: Feed,
    split: tuple[Sequence[int], Sequence[int]],
    state: TrainingState,
    job: TrainingJob,
    on_progress: Callable[[TrainingProgress], None],
) -> Fit:
    """Train with Adam from ``state`` on, and leave the best weights in the model.

    ``feed`` gives the batches, and ``split`` holds the numbers of the training and of the
    validation images. Every epoch ends with a checkpoint. An interrupt (``KeyboardInterrupt``) ends
    the training and keeps what is best so far. A loss that is not finite raises
    :class:`TrainingDiverged`.
    """
    settings = state.settings
    seed = (settings.seed + len(state.history)) % 2**32  # or a resumed one would draw as before
    training = feed(split[0], replace(settings, seed=seed), training=True)
    validation = feed(split[1], settings, training=False)
    checkpoints = job.checkpoints
    run = Run((min(EPOCH_IMAGES, len(split[0])), len(split[1])), state, job)
    model = autoencoder
    if state.history:
        model = _restored(checkpoints.model(len(state.history)))
        run.best_weights = _restored(checkpoints.model(state.best_epoch)).get_weights()
    else:
        _compile(model, settings)
    if run.seconds_left() <= 0:
        return _without_time(run, autoencoder)
    _build(model)
    steps = steps_of_epoch(len(split[0]), settings)
    interrupted = not _fitted(model, run, (training, validation), steps, on_progress)
    autoencoder.set_weights(run.best_weights)
    return Fit(run.state.history, run.state.best_epoch, interrupted)


def _without_time(run: Run, autoencoder: keras.Model) -> Fit:
    """Return what there is when the time is up before the training could begin, or go on."""
    if not run.state.history:
        raise EncoderError(
            f"the time was up after {run.seconds():.0f} s, before the training could begin; give "
            "it more with --time-budget"
        )
    autoencoder.set_weights(run.best_weights)
    return Fit(run.state.history, run.state.best_epoch, interrupted=False)


def _fitted(
    model: keras.Model,
    run: Run,
    data: tuple[tf.data.Dataset, tf.data.Dataset],
    steps: int | None,
    on_progress: Callable[[TrainingProgress], None],
) -> bool:
    """Train on the former data, validate on the latter; return whether nobody interrupted it."""
    reporter = ProgressReporter(run, on_progress)
    with warnings.catch_warnings():
        # The number of batches is unknown, because images may be left out.
        warnings.filterwarnings("ignore", "Your input ran out of data")
        try:
            with _interrupting(run):
                model.fit(
                    data[0],
                    validation_data=data[1],
                    epochs=run.settings.epochs,
                    initial_epoch=len(run.state.history),
                    steps_per_epoch=steps,
                    callbacks=_callbacks(run, reporter),
                    shuffle=False,  # the pipeline does it
                    verbose=0,
                )
        except KeyboardInterrupt:
            if not run.has_trained():
                raise
            if not run.state.history:
                run.end_training()
                logs = model.evaluate(data[1], verbose=0, return_dict=True)
                run.end_epoch(model, run.loss, run.finite(logs, "loss"))
                reporter.report(ended=True)
            return False
    return True


def _callbacks(run: Run, reporter: ProgressReporter) -> list[keras.callbacks.Callback]:
    """Return them in the order in which they are called: what is recorded is reported."""
    scheduled = [LearningRate(run)] if run.settings.contrast or run.settings.start else []
    return [*scheduled, EpochRecorder(run), reporter, Stopping(run)]


def _compile(model: keras.Model, settings: TrainingSettings) -> None:
    losses = {RECONSTRUCTION: "mean_squared_error"}
    weights = {RECONSTRUCTION: settings.reconstruct}
    if settings.contrast:
        losses[PROJECTION], weights[PROJECTION] = nt_xent, settings.contrast
    model.compile(
        keras.optimizers.Adam(settings.learning_rate),
        loss=losses,
        loss_weights=weights,
        jit_compile=False,  # XLA has slow convolutions on CPUs
    )


def _build(model: keras.Model) -> None:
    """Make all variables of a training now: made in its first step, they have it traced twice."""
    model.optimizer.build(model.trainable_variables)
    outputs = {name: tf.zeros((2, *output.shape[1:])) for name, output in model.output.items()}
    model.compute_loss(y=outputs, y_pred=outputs)


def _restored(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EncoderError(f"{path}: cannot be resumed from: {error}") from error


@contextmanager
def _interrupting(run: Run) -> Iterator[None]:
    """Let Ctrl-C interrupt between two batches; TensorFlow may crash if it comes in the midst."""
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:  # or ignored, or the caller's own
        yield
        return

    def note(*_: object) -> None:
        run.is_interrupted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
