"""What happens between the batches and epochs of a training."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from imgsim.checkpoints import Checkpoints, TrainingState
from imgsim.errors import EncoderError, TrainingDiverged
from imgsim.types import EpochRecord, TrainingProgress

_WARM_UP = 0.05  # share of a training in which the learning rate rises


class Recorder(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Sets the learning rate, reports progress, records epochs, keeps the best weights.

    It ends a training that diverges, has used up its time, or is interrupted.
    """

    def __init__(
        self,
        images: int,
        state: TrainingState,
        checkpoints: Checkpoints,
        on_progress: Callable[[TrainingProgress], None],
    ) -> None:
        super().__init__()
        self._images = images
        self._settings = state.settings
        self._checkpoints = checkpoints
        self._on_progress = on_progress
        self.state = state
        self.is_interrupted = False
        self.loss = math.nan
        self.best_weights: list[NDArray[np.float32]] = []
        self._done = 0
        self._started = time.perf_counter() - state.seconds
        self._began = 0.0
        self._trained_for = 0.0

    def has_trained(self) -> bool:
        """Say whether there is anything to keep."""
        return bool(self.state.history) or self._done > 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the learning rate: linear warm-up, then half a cosine down to 0."""
        if not self._settings.contrast:
            return
        share = self._share()
        falling = 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))
        rate = max(share, 1e-4) / _WARM_UP if share < _WARM_UP else falling
        self.model.optimizer.learning_rate = self._settings.learning_rate * rate

    def _share(self) -> float:
        """Return which share of the training is over, by its epochs or its time."""
        epochs = len(self.state.history) + self._done / self._images
        spent = time.perf_counter() - self._started
        return min(1.0, max(epochs / self._settings.epochs, spent / self._settings.time_budget))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin to count."""
        self._done = 0
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Report, and stop if it is time."""
        self.loss = self._finite(logs, "loss")
        self._done = min(self._images, (batch + 1) * self._settings.batch_size)
        self._report(time.perf_counter() - self._began)
        if self.is_interrupted:
            raise KeyboardInterrupt
        if time.perf_counter() - self._started > self._settings.time_budget:
            self.model.stop_training = True

    def _report(self, seconds: float, *, ended: bool = False) -> None:
        rate = self._done / seconds
        history, epochs = self.state.history, self._settings.epochs
        epochs_left = epochs - len(history) - (0 if ended else self._done / self._images)
        time_left = self._settings.time_budget - (time.perf_counter() - self._started)
        self._on_progress(
            TrainingProgress(
                epoch=len(history) + (not ended),
                epochs=epochs,
                done=self._done,
                total=self._images,
                loss=self.loss,
                val_loss=history[-1].val_loss if history else None,
                images_per_second=rate,
                seconds_left=max(0.0, min(epochs_left * self._images / rate, time_left)),
                ended=ended,
            )
        )

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the time of the validation out of the rate."""
        self._trained_for = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch, keep its weights if they are the best, and save a checkpoint."""
        history = self.state.history
        record = EpochRecord(
            epoch=len(history) + 1,
            loss=self._finite(logs, "loss"),
            val_loss=self._finite(logs, "val_loss"),
            seconds=self._trained_for,
            images_per_second=self._done / self._trained_for,
        )
        best = self.state.best_epoch
        if not history or record.val_loss < history[best - 1].val_loss:
            best = record.epoch
            self.best_weights = self.model.get_weights()
        self.state = replace(
            self.state,
            history=(*history, record),
            best_epoch=best,
            seconds=time.perf_counter() - self._started,
        )
        self._checkpoints.save(self.state, self.model.save)
        self._report(self._trained_for, ended=True)
        self._done = 0
        patience = self._settings.patience
        if patience and record.epoch - best >= patience:
            self.model.stop_training = True

    def _finite(self, logs: dict[str, Any] | None, name: str) -> float:
        if not logs or name not in logs:
            raise EncoderError(f"no {name}: none of its images can be decoded any longer")
        value = float(logs[name])
        if not math.isfinite(value):
            epoch = len(self.state.history) + 1
            raise TrainingDiverged(
                f"the {name} is {value} in epoch {epoch}; try a lower --learning-rate"
            )
        return value
