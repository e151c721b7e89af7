"""The Keras autoencoder; the only module that imports Keras and TensorFlow."""

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import: its log is for developers

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from imgsim.errors import EncoderError, ImageError, TrainingDiverged
from imgsim.settings import SHRINK, TrainingSettings
from imgsim.types import EpochRecord, TrainingProgress

_STEM = 4  # a first convolution of stride 4 costs a fraction of two of stride 2
_LATENT = "latent"

Load = Callable[[int], NDArray[np.uint8]]
"""Returns image i as (height, width, channels) uint8 or raises :class:`ImageError`."""


def create_autoencoder(
    height: int,
    width: int,
    channels: int,
    latent_channels: int,
    filters: tuple[int, int, int] = (32, 64, 128),
) -> keras.Model:
    """Return a convolutional autoencoder with random weights.

    Input: (n, height, width, channels) float32 in 0..255. Output: the same shape in 0..1. The layer
    ``latent`` gives the flattened (n, height/16 * width/16 * latent_channels) float32 latent.
    Convolutions of stride 4, 2 and 2 encode; transpose convolutions of stride 2, 2 and 4 decode.
    """
    if height % SHRINK or width % SHRINK or min(height, width) < SHRINK:
        raise EncoderError(f"the image size must be a multiple of {SHRINK}, not {height}x{width}")
    small, middle, large = filters
    image = keras.Input((height, width, channels), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = _convolution(small, 2 * _STEM, _STEM)(x)
    x = _convolution(middle, 3, 2)(x)
    x = _convolution(large, 3, 2)(x)
    grid = layers.Conv2D(latent_channels, 3, padding="same")(x)
    latent = layers.Flatten(name=_LATENT)(grid)
    x = layers.Reshape(grid.shape[1:])(latent)
    x = _transpose(large, 3, 2)(x)
    x = _transpose(middle, 3, 2)(x)
    x = _convolution(small, 3, 1)(x)
    x = layers.Conv2DTranspose(
        channels, 2 * _STEM, strides=_STEM, padding="same", activation="sigmoid"
    )(x)
    return keras.Model(image, x, name="autoencoder")


def set_seed(seed: int) -> None:
    """Seed the random numbers of Python, NumPy and TensorFlow."""
    keras.utils.set_random_seed(seed)


def _convolution(filters: int, kernel: int, stride: int) -> layers.Layer:
    return layers.Conv2D(filters, kernel, strides=stride, padding="same", activation="relu", **_HE)


def _transpose(filters: int, kernel: int, stride: int) -> layers.Layer:
    return layers.Conv2DTranspose(
        filters, kernel, strides=stride, padding="same", activation="relu", **_HE
    )


_HE = {"kernel_initializer": "he_normal"}


def encoder_of(autoencoder: keras.Model) -> keras.Model:
    """Return the part of the autoencoder from the image to the flattened latent."""
    encoder = keras.Model(autoencoder.input, autoencoder.get_layer(_LATENT).output, name="encoder")
    encoder(np.zeros((1, *encoder.input.shape[1:]), np.float32))  # Keras exports what was called
    return encoder


def export_onnx(encoder: keras.Model, path: Path) -> None:
    """Write the encoder as an ONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx probes for names that NumPy 2 deprecates
        encoder.export(path, format="onnx", verbose=False)


def export_layer(path: Path, layer: str, target: Path) -> None:
    """Write the part of the Keras model at ``path`` from its input to a layer as an ONNX file.

    Code in the file (Lambda layers) is not run.
    """
    try:
        model = keras.models.load_model(path, compile=False)
        output = model.get_layer(layer).output
    except (OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise EncoderError(f"{path}: {str(error).splitlines()[0]}") from error
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise EncoderError(f"{path}: must have one input, the image")
    part = keras.Model(model.inputs[0], output)
    part(np.zeros([size or 32 for size in (1, *model.inputs[0].shape[1:])], np.float32))
    export_onnx(part, target)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a training run went; ``best_epoch`` (from 1) is the one whose weights were kept."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    interrupted: bool


def fit(
    autoencoder: keras.Model,
    load: Load,
    split: tuple[Sequence[int], Sequence[int]],
    settings: TrainingSettings,
    on_progress: Callable[[TrainingProgress], None],
) -> Fit:
    """Train with Adam on the mean squared error and leave the best weights in the model.

    ``split`` holds the numbers of the training and of the validation images. Images stream
    through a ``tf.data`` pipeline; those that ``load`` refuses are left out. An interrupt
    (``KeyboardInterrupt``) ends the training and keeps what is best so far. A loss that is not
    finite raises :class:`TrainingDiverged`.
    """
    shape = autoencoder.input.shape[1:]
    training = _dataset(load, split[0], shape, settings, shuffle=True)
    validation = _dataset(load, split[1], shape, settings, shuffle=False)
    recorder = _Recorder(len(split[0]), settings, on_progress)
    autoencoder.compile(keras.optimizers.Adam(settings.learning_rate), "mean_squared_error")
    interrupted = False
    with warnings.catch_warnings():
        # The number of batches is unknown, because images may be left out.
        warnings.filterwarnings("ignore", "Your input ran out of data")
        try:
            with _interrupting(recorder):
                autoencoder.fit(
                    training,
                    validation_data=validation,
                    epochs=settings.epochs,
                    callbacks=[recorder],
                    shuffle=False,  # the pipeline does it
                    verbose=0,
                )
        except KeyboardInterrupt:
            if not recorder.has_trained():
                raise
            interrupted = True
            if not recorder.history:
                recorder.on_test_begin()
                val_loss = float(autoencoder.evaluate(validation, verbose=0))
                recorder.on_epoch_end(0, {"loss": recorder.loss, "val_loss": val_loss})
    autoencoder.set_weights(recorder.best_weights)
    return Fit(tuple(recorder.history), recorder.best_epoch, interrupted)


def _dataset(
    load: Load,
    numbers: Sequence[int],
    shape: tuple[int, int, int],
    settings: TrainingSettings,
    *,
    shuffle: bool,
) -> tf.data.Dataset:
    def load_or_flag(number: np.int64) -> tuple[NDArray[np.uint8], bool]:
        try:
            return load(int(number)), True
        except ImageError:
            return np.zeros(shape, np.uint8), False

    def to_tensors(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, loaded = tf.numpy_function(load_or_flag, [number], (tf.uint8, tf.bool))
        return tf.ensure_shape(pixels, shape), tf.ensure_shape(loaded, ())

    def to_pair(pixels: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(pixels, tf.float32)
        return image, image / 255

    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, np.int64))
    if shuffle:
        dataset = dataset.shuffle(len(numbers), seed=settings.seed)
    dataset = dataset.map(to_tensors, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.filter(lambda _, loaded: loaded).map(to_pair)
    return dataset.batch(settings.batch_size).prefetch(2)


@contextmanager
def _interrupting(recorder: "_Recorder") -> Iterator[None]:
    """Let Ctrl-C interrupt between two batches; TensorFlow may crash if it comes in the midst."""
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:  # or ignored, or the caller's own
        yield
        return

    def note(*_: object) -> None:
        recorder.is_interrupted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Recorder(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Reports progress, records the epochs, keeps the best weights, stops a diverging run."""

    def __init__(
        self,
        images: int,
        settings: TrainingSettings,
        on_progress: Callable[[TrainingProgress], None],
    ) -> None:
        super().__init__()
        self._images = images
        self._settings = settings
        self._on_progress = on_progress
        self.is_interrupted = False
        self._epoch = 0
        self._done = 0
        self._began = 0.0
        self._trained_for = 0.0
        self.loss = math.nan
        self.history: list[EpochRecord] = []
        self.best_epoch = 0
        self.best_weights: list[NDArray[np.float32]] = []

    def has_trained(self) -> bool:
        return bool(self.history) or self._done > 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._done = 0
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.loss = _finite(logs, "loss", self._epoch)
        self._done = min(self._images, (batch + 1) * self._settings.batch_size)
        self._report(time.perf_counter() - self._began)
        if self.is_interrupted:
            raise KeyboardInterrupt

    def _report(self, seconds: float, *, ended: bool = False) -> None:
        rate = self._done / seconds
        epochs_left = self._settings.epochs - self._epoch - 1
        self._on_progress(
            TrainingProgress(
                epoch=self._epoch + 1,
                epochs=self._settings.epochs,
                done=self._done,
                total=self._images,
                loss=self.loss,
                val_loss=self.history[-1].val_loss if self.history else None,
                images_per_second=rate,
                seconds_left=(self._images * (epochs_left + 1) - self._done) / rate,
                ended=ended,
            )
        )

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._trained_for = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = self._trained_for
        record = EpochRecord(
            epoch=epoch + 1,
            loss=_finite(logs, "loss", epoch),
            val_loss=_finite(logs, "val_loss", epoch),
            seconds=seconds,
            images_per_second=self._done / seconds,
        )
        if not self.history or record.val_loss < self.history[self.best_epoch - 1].val_loss:
            self.best_epoch = record.epoch
            self.best_weights = self.model.get_weights()
        self.history.append(record)
        self._report(seconds, ended=True)


def _finite(logs: dict[str, Any] | None, name: str, epoch: int) -> float:
    if not logs or name not in logs:
        raise EncoderError("none of the training or none of the validation images can be decoded")
    value = float(logs[name])
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the {name} is {value} in epoch {epoch + 1}; try a lower --learning-rate"
        )
    return value
