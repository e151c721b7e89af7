"""What users decide about a training, an ingest, an evaluation, and an encoder of their own."""

import math
from dataclasses import dataclass

SHRINK = 16
"""Height and width of a latent are those of the image divided by this."""


@dataclass(frozen=True)
class IngestSettings:
    """What an ingest takes for granted of files that it has met before.

    ``rehash`` reads every file, whatever its size and time say; ``retry_refused`` tries refused
    files that have not changed.
    """

    rehash: bool = False
    retry_refused: bool = False


@dataclass(frozen=True)
class TrainingSettings:
    """How to train: images become ``image_size`` x ``image_size``.

    ``latent_channels`` None stands for as many as make about 1,024 latent values. Settings that
    make no sense raise ValueError.
    """

    image_size: int = 256
    latent_channels: int | None = None
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    validation_split: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that make no sense before anything is loaded."""
        if self.image_size < SHRINK or self.image_size % SHRINK:
            raise ValueError(f"the image size must be a multiple of {SHRINK}")
        channels = 1 if self.latent_channels is None else self.latent_channels
        if min(self.epochs, self.batch_size, channels) < 1:
            raise ValueError("epochs, batch size and latent channels must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError("the learning rate must be a positive number")
        if not 0 < self.validation_split < 1:
            raise ValueError("the validation split must be between 0 and 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError("the seed must be at least 0 and below 2^32")


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate: labels from the CSV file ``labels``, or else the names of folders.

    The labels are in its column ``column``; ``queries`` images at most are drawn with ``seed``.
    """

    labels: str | None = None
    column: str = "label"
    queries: int = 1_000
    seed: int = 0


@dataclass(frozen=True)
class EncoderSource:
    """An encoder made elsewhere: a ``file`` that is an ONNX model or, with ``layer``, a Keras one.

    What is None is taken from the file, or else is what such models mostly have: pixels from 0 to 1
    for float inputs of ONNX, from 0 to 255 for others, no mean and deviation, RGB.
    """

    file: str
    name: str | None = None
    layer: str | None = None
    image_size: int | None = None
    layout: str | None = None
    scale: str | None = None
    channels: str = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    output: str | None = None
    normalize: bool = False
