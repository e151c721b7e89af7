"""What happens between the batches and epochs of a training."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError, TrainingDiverged
from imgsim.results import EpochRecord, TrainingProgress
from imgsim.training.checkpoints import TrainingJob, TrainingState

_FOLLOWING = 6_000  # images that pass through the network after the training, at most
_WARM_UP = 0.05  # share of a training in which the learning rate rises

_Logs = dict[str, Any] | None


class Run:
    """Where a training is: what its callbacks share.

    An epoch has so many ``images``, and so many that it is validated on.
    """

    def __init__(self, images: tuple[int, int], state: TrainingState, job: TrainingJob) -> None:
        self.images, self._validated = images
        self.settings = state.settings
        self.state = state
        self.is_interrupted = False
        self.loss = math.nan
        self.best_weights: list[NDArray[np.float32]] = []
        self.done = 0  # images of this epoch
        self._job = job
        self._before = state.seconds
        self._prepared = time.monotonic() - job.began
        self._first_batch: float | None = None  # when it had ended
        self._since = 0  # images since then
        self._epoch_began = 0.0
        self._epoch_trained: float | None = None

    def has_trained(self) -> bool:
        """Say whether there is anything to keep."""
        return bool(self.state.history) or self.done > 0

    def seconds(self) -> float:
        """Return how long the training has been going on."""
        return self._before + time.monotonic() - self._job.began

    def share(self) -> float:
        """Return which share of the training is over, by its epochs or its time."""
        epochs = len(self.state.history) + self.done / self.images
        trained = self.seconds() - self._prepared
        used = trained / (trained + max(0.0, self.seconds_left()) or 1.0)
        return min(1.0, max(epochs / self.settings.epochs, used))

    def seconds_left(self) -> float:
        """Return how long there is to train, before the rest of the time is for what follows.

        That takes about half as long as it took to get to the first batch, and a forward pass of
        some images, which costs half of training on them.
        """
        left = self.settings.time_budget - self.seconds()
        if self._first_batch is None or math.isinf(left):
            return left
        trained = time.monotonic() - self._first_batch
        following = min(_FOLLOWING, self.images) + self._validated
        forward = following * trained / (2 * self._since) if self._since else 0.0
        return left - 0.5 * (self._first_batch - self._job.began) - forward

    def count(self, batch: int) -> None:
        """Count a batch, the first of an epoch being 0."""
        done = min(self.images, (batch + 1) * self.settings.batch_size)
        if self._first_batch is None:
            self._first_batch = time.monotonic()
        else:
            self._since += done - self.done
        self.done = done

    def begin_epoch(self) -> None:
        """Begin to count."""
        self.done, self._epoch_trained = 0, None
        self._epoch_began = time.monotonic()

    def end_training(self) -> None:
        """Leave what comes now, the validation, out of the epoch's time."""
        self._epoch_trained = time.monotonic() - self._epoch_began

    def epoch_seconds(self) -> float:
        """Return how long this epoch has been training, without its validation."""
        return self._epoch_trained or time.monotonic() - self._epoch_began

    def end_epoch(self, model: keras.Model, loss: float, val_loss: float) -> None:
        """Record the epoch, keep its weights if they are the best, and save a checkpoint."""
        history, seconds = self.state.history, self.epoch_seconds()
        record = EpochRecord(len(history) + 1, loss, val_loss, seconds, self.done / seconds)
        best = self.state.best_epoch
        if not history or val_loss < history[best - 1].val_loss:
            best = record.epoch
            self.best_weights = model.get_weights()
        self.state = replace(
            self.state, history=(*history, record), best_epoch=best, seconds=self.seconds()
        )
        self._job.checkpoints.save(self.state, model.save)

    def finite(self, logs: _Logs, name: str) -> float:
        """Return a loss; raise :class:`TrainingDiverged` unless it is finite."""
        if not logs or name not in logs:
            raise EncoderError(f"no {name}: none of its images can be decoded any longer")
        value = float(logs[name])
        if not math.isfinite(value):
            epoch = len(self.state.history) + 1
            raise TrainingDiverged(
                f"the {name} is {value} in epoch {epoch}; try a lower --learning-rate"
            )
        return value


class LearningRate(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Sets the learning rate: linear warm-up, then half a cosine down to 0."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def on_train_batch_begin(self, batch: int, logs: _Logs = None) -> None:
        """Set it."""
        share = self._run.share()
        falling = 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))
        rate = max(share, 1e-4) / _WARM_UP if share < _WARM_UP else falling
        self.model.optimizer.learning_rate = self._run.settings.learning_rate * rate


class EpochRecorder(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Counts images, refuses losses that are not finite, and records epochs."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def on_epoch_begin(self, epoch: int, logs: _Logs = None) -> None:
        """Begin to count."""
        self._run.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: _Logs = None) -> None:
        """Count a batch."""
        self._run.loss = self._run.finite(logs, "loss")
        self._run.count(batch)

    def on_test_begin(self, logs: _Logs = None) -> None:
        """Leave the time of the validation out of the rate."""
        self._run.end_training()

    def on_epoch_end(self, epoch: int, logs: _Logs = None) -> None:
        """Record it."""
        loss, val_loss = self._run.finite(logs, "loss"), self._run.finite(logs, "val_loss")
        self._run.end_epoch(self.model, loss, val_loss)


class ProgressReporter(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Reports after each batch and epoch."""

    def __init__(self, run: Run, on_progress: Callable[[TrainingProgress], None]) -> None:
        super().__init__()
        self._run = run
        self._on_progress = on_progress

    def on_train_batch_end(self, batch: int, logs: _Logs = None) -> None:
        """Report."""
        self.report(ended=False)

    def on_epoch_end(self, epoch: int, logs: _Logs = None) -> None:
        """Report."""
        self.report(ended=True)

    def report(self, *, ended: bool) -> None:
        """Report where the training is."""
        run, settings = self._run, self._run.settings
        rate, history = run.done / run.epoch_seconds(), run.state.history
        epochs_left = settings.epochs - len(history) - (0 if ended else run.done / run.images)
        time_left = run.seconds_left()
        self._on_progress(
            TrainingProgress(
                stage="train",
                epoch=len(history) + (not ended),
                epochs=settings.epochs,
                done=run.done,
                total=run.images,
                loss=run.loss,
                val_loss=history[-1].val_loss if history else None,
                images_per_second=rate,
                seconds_left=max(0.0, min(epochs_left * run.images / rate, time_left)),
                ended=ended,
            )
        )


class Stopping(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Ends a training that is interrupted, has used up its time, or gets no better."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def on_train_batch_end(self, batch: int, logs: _Logs = None) -> None:
        """Stop if it is time."""
        if self._run.is_interrupted:
            raise KeyboardInterrupt
        if self._run.seconds_left() < 0:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: _Logs = None) -> None:
        """Stop if it is time, or if the last epochs were no better."""
        if self._run.seconds_left() < 0:
            self.model.stop_training = True
        state, patience = self._run.state, self._run.settings.patience
        if patience and len(state.history) - state.best_epoch >= patience:
            self.model.stop_training = True
