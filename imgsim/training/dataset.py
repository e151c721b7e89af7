"""Batches of images for a training, streamed from files."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from imgsim.errors import ImageError
from imgsim.options import TrainingSettings
from imgsim.training.augment import JITTERS, augmented
from imgsim.training.network import PROJECTION, RECONSTRUCTION

Load = Callable[[int], NDArray[np.uint8]]
"""Returns image i as (side, side, 3) uint8 or raises :class:`ImageError`."""

EPOCH_IMAGES = 20_000
"""An epoch is a pass over all images, or over so many where there are more."""


def steps_of_epoch(images: int, settings: TrainingSettings) -> int | None:
    """Return the batches of an epoch that is not a pass over all images; None for one that is."""
    return EPOCH_IMAGES // settings.batch_size or 1 if images > EPOCH_IMAGES else None


def batches(
    load: Load, numbers: Sequence[int], settings: TrainingSettings, *, training: bool
) -> tf.data.Dataset:
    """Return pairs of what the network gets and what its outputs are compared with.

    Images that ``load`` refuses are left out. With ``settings.contrast`` a batch is two
    augmentations of each image, all the first ones before the second. Training batches are
    shuffled, and always of other augmentations, of as many images; those for validation are the
    same every time.
    """
    dataset = _images(load, numbers, settings, training=training).map(lambda _, images: images)
    dataset = dataset.batch(settings.batch_size)
    if settings.contrast:
        dataset = _whole(dataset, settings.batch_size) if training else dataset
        seeds = tf.data.Dataset.random(settings.seed, rerandomize_each_iteration=training)
        dataset = tf.data.Dataset.zip(dataset, seeds).map(_augmented(settings))
    else:
        dataset = dataset.map(lambda images: (images, {RECONSTRUCTION: images / 255}))
    return _ahead(dataset)


def feature_batches(
    load: Load,
    features: NDArray[np.float32],
    numbers: Sequence[int],
    settings: TrainingSettings,
    *,
    training: bool,
) -> tf.data.Dataset:
    """Return pairs of ``features`` (n, d) and the images, 0..1, that a decoder makes of them.

    ``numbers`` count their rows. Images that ``load`` refuses are left out.
    """
    table = tf.constant(features)

    def paired(number: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return tf.gather(table, number), {RECONSTRUCTION: images / 255}

    dataset = _images(load, numbers, settings, training=training)
    return _ahead(dataset.batch(settings.batch_size).map(paired))


def _ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return batches that are made before they are asked for."""
    steady = tf.data.Options()
    steady.autotune.enabled = False  # at the end of an epoch its thread sleeps on for many seconds
    return dataset.prefetch(2).with_options(steady)


def _images(
    load: Load, numbers: Sequence[int], settings: TrainingSettings, *, training: bool
) -> tf.data.Dataset:
    """Return the numbers and the pixels, 0..255, of the images that can be decoded."""
    shape = settings.image_size, settings.image_size, 3

    def load_or_flag(number: np.int64) -> tuple[NDArray[np.uint8], bool]:
        try:
            return load(int(number)), True
        except ImageError:
            return np.zeros(shape, np.uint8), False

    def to_tensors(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels, loaded = tf.numpy_function(load_or_flag, [number], (tf.uint8, tf.bool))
        return number, tf.ensure_shape(pixels, shape), tf.ensure_shape(loaded, ())

    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, np.int64))
    if training:
        dataset = dataset.shuffle(len(numbers), seed=settings.seed)
        if steps_of_epoch(len(numbers), settings):
            dataset = dataset.repeat()
    dataset = dataset.map(to_tensors, num_parallel_calls=os.cpu_count() or 1)
    dataset = dataset.filter(lambda _, pixels, loaded: loaded)
    return dataset.map(lambda number, pixels, _: (number, tf.cast(pixels, tf.float32)))


def _whole(dataset: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """Leave out a last batch that is smaller, unless it is the only one."""

    def wanted(number: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        return (number == 0) | (tf.shape(images)[0] == size)

    return dataset.enumerate().filter(wanted).map(lambda _, images: images)


def _augmented(
    settings: TrainingSettings,
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, dict[str, tf.Tensor]]]:
    side, jitter = settings.image_size, JITTERS[settings.colours]

    def of(images: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        pairs = (
            augmented(images, side, jitter, tf.stack([seed, number]))
            for number in (tf.constant(0, tf.int64), tf.constant(1, tf.int64))
        )
        augmentations, clean = (tf.concat(both, axis=0) for both in zip(*pairs, strict=True))
        nothing = tf.zeros(tf.shape(augmentations)[:1])
        return augmentations, {RECONSTRUCTION: clean / 255, PROJECTION: nothing}

    return of
