"""What users decide about a training, an ingest, an evaluation, and an encoder of their own."""

import math
import operator
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from imgsim.exclusions import checked_patterns

MAX_PIXELS = 178_956_970
"""An image of more pixels is refused: a small file could fill the memory."""

Damaged = Literal["refuse", "accept"]
"""What to do with an image of which not all pixels can be decoded."""

SHRINK = 16
"""Height and width of a latent are those of the image divided by this."""

Recipe = Literal["contrastive", "plain"]
"""Recognise images in random augmentations, or only reconstruct."""

Colours = Literal["auto", "much", "some", "little", "none"]
"""How much the colours of an image count."""

Layout = Literal["nchw", "nhwc"]
"""Order of the axes of an encoder's input."""

Scale = Literal["0..1", "0..255"]
"""Range of pixels."""

Channels = Literal["rgb", "bgr"]
"""Order of channels."""

Preset = Literal["imagenet", "clip", "dinov2", "mobilenet", "efficientnet"]
"""A family of networks, which says how they are fed."""

Fit = Literal["stretch", "crop"]
"""How an image of other proportions is brought to those of an encoder's input."""

Device = Literal["auto", "cpu", "cuda"]
"""What computes: ``auto`` is the CPU for embeddings, and what TensorFlow takes for a training."""

Triple = tuple[float, float, float]


PathLike = str | os.PathLike[str]
Paths = PathLike | Iterable[PathLike]
"""A path, or several."""

Stored = int | PathLike
"""A stored image: its id, or its path."""


def listed(paths: Paths) -> list[str]:
    """Return one path, or several, as a list."""
    if isinstance(paths, str | os.PathLike):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]


def checked_k(k: int | None) -> int | None:
    """Return how many neighbours are wanted (None: all); raise ValueError if fewer than 1."""
    if k is None:
        return None
    return checked_count(k, "k")


def checked_count(count: int, name: str) -> int:
    """Return how many of something are wanted; raise ValueError if fewer than 1."""
    count = operator.index(count)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return count


@dataclass(frozen=True)
class DecodeRules:
    """Which images are decoded: those of at most ``max_pixels``.

    A JPEG counts at the scale at which it is decoded. With ``accept_damaged`` a JPEG or PNG is read
    as far as it can be, and is grey or black beyond. A limit below 1 raises ValueError.
    """

    max_pixels: int = MAX_PIXELS
    accept_damaged: bool = False

    def __post_init__(self) -> None:
        """Refuse a limit that no image keeps."""
        if self.max_pixels < 1:
            raise ValueError("the limit of pixels must be at least 1")


DECODE_RULES = DecodeRules()
"""What goes for images unless somebody decides otherwise."""

STORED_RULES = DecodeRules(sys.maxsize, accept_damaged=True)
"""What goes for images that are stored: they were accepted once."""


@dataclass(frozen=True)
class SearchFilter:
    """Which stored images count as neighbours.

    Those at a distance of at most ``radius``, and where ``under`` or ``not_under`` name folders,
    those whose path is in or below one of the former and none of the latter. Each is a path, or
    several, and becomes a tuple. A radius that is negative or no number, or a folder without a
    name, raises ValueError.

    With ``no_self``, a query's own file does not count, by whatever links it is reached. With
    ``distinct``, of images with the same content (the same bytes) only the first one counts, and
    none that has the query's.
    """

    radius: float = math.inf
    under: Paths = ()
    not_under: Paths = ()
    no_self: bool = False
    distinct: bool = False

    def __post_init__(self) -> None:
        """Refuse a radius that makes no sense."""
        for name in ("under", "not_under"):
            object.__setattr__(self, name, tuple(listed(getattr(self, name))))
        if not self.radius >= 0:
            raise ValueError("the radius must be a number that is not negative")
        if "" in [*listed(self.under), *listed(self.not_under)]:
            raise ValueError("a path is empty")


@dataclass(frozen=True)
class BatchLimits:
    """When a batch of images is committed: at so many images or bytes, or after so many seconds.

    The first batches of a run are committed sooner, after 2, 4, 8 and 16 seconds. Files
    are compared with the catalog ``compared`` at a time.
    """

    images: int = 4_096
    bytes: int = 32 << 20
    seconds: float = 30.0
    compared: int = 1_000

    def __post_init__(self) -> None:
        """Refuse limits that nothing fits into."""
        if min(self.images, self.bytes, self.compared) < 1 or not self.seconds >= 0:
            raise ValueError("the limits of a batch must be at least 1, and its seconds 0")


@dataclass(frozen=True)
class IngestSettings:
    """What an ingest takes for granted of files that it has met before, and what it leaves out.

    ``rehash`` reads every file, whatever its size and time say; ``retry_refused`` tries refused
    files that have not changed. With ``count_first`` progress has a total, and folders are walked
    through twice; else it is 0. ``exclude`` is a pattern as in a .gitignore file, or several: what
    matches one, its path being relative to the folder that is ingested, is left out, and so are
    files that are named, whose paths are relative to the working folder. They follow
    ``imgsim.exclusions.DEFAULTS``, and so ``!@eaDir`` takes these folders in. It becomes a tuple;
    what is no pattern raises ValueError. Images of more than ``max_pixels`` are refused; a JPEG
    counts at the scale at which it is decoded. If ``damaged`` is "accept", JPEGs and PNGs of which
    not all pixels can be decoded are stored as far as they can, and refused files are tried again.
    """

    rehash: bool = False
    retry_refused: bool = False
    batch: BatchLimits = BatchLimits()
    count_first: bool = True
    exclude: str | Iterable[str] = ()
    max_pixels: int = MAX_PIXELS
    damaged: Damaged = "refuse"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        object.__setattr__(self, "exclude", checked_patterns(self.exclude))
        if self.damaged not in get_args(Damaged):
            raise ValueError(f"damaged must be one of {', '.join(get_args(Damaged))}")
        DecodeRules(self.max_pixels)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults are the recipe ``contrastive``.

    Images become ``image_size`` x ``image_size``. The loss is ``reconstruct`` times the mean
    squared error of the reconstruction, plus ``contrast`` times the NT-Xent loss of two random
    augmentations of each image. Without ``contrast`` there are none. ``latent_channels`` 0 stands
    for as many as make about 1,024 latent values.

    ``principal`` directions, if not 0 and if there are more images, and then ``unit`` length are
    the encoder's head. ``colours`` says how much they count: all but ``none`` put beside the latent
    which share of the image each colour has; ``much`` trains on augmentations that keep their
    colours, the others on some of any colour; ``auto`` lets the images decide between ``little``,
    ``some`` and ``much``.

    With the name of an encoder, ``start``, that stays as it is: last layers are fitted to it as
    :class:`AdaptSettings` say, and a decoder learns to reconstruct images from what it gives. The
    other settings are then best those of :data:`DECODER`: there are neither latent channels nor
    augmentations. The time is that of the decoder alone.

    A training ends after ``epochs``, after ``time_budget`` seconds, or when ``patience`` epochs, if
    not 0, have not lowered the validation loss. ``exclude`` and ``max_pixels`` are those of
    :class:`IngestSettings`. Settings that make no sense raise ValueError.
    """

    image_size: int = 64
    latent_channels: int = 0
    epochs: int = 500
    batch_size: int = 128
    learning_rate: float = 2e-3
    validation_split: float = 0.05
    seed: int = 0
    reconstruct: float = 1.0
    contrast: float = 1.0
    principal: int = 256
    unit: bool = True
    colours: Colours = "auto"
    time_budget: float = 1_200.0
    patience: int = 0
    exclude: str | Iterable[str] = ()
    max_pixels: int = MAX_PIXELS
    start: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that make no sense before anything is loaded."""
        object.__setattr__(self, "exclude", checked_patterns(self.exclude))
        sizes_fit = self.image_size >= SHRINK and self.image_size % SHRINK == 0
        counts_fit = min(self.epochs, self.batch_size) >= 1 and self.latent_channels >= 0
        weights_fit = min(self.reconstruct, self.contrast, self.principal, self.patience) >= 0
        for fits, otherwise in (
            (sizes_fit, f"the image size must be a multiple of {SHRINK}"),
            (counts_fit, "epochs, batch size and latent channels must be at least 1"),
            (0 < self.learning_rate < math.inf, "the learning rate must be a positive number"),
            (0 < self.validation_split < 1, "the validation split must be between 0 and 1"),
            (0 <= self.seed < 2**32, "the seed must be at least 0 and below 2^32"),
            (self.time_budget > 0, "the time budget must be positive"),
            (
                self.colours in get_args(Colours),
                f"colours must be one of {', '.join(get_args(Colours))}",
            ),
            (
                self.unit or self.colours == "none",
                "colours count only beside a latent of unit length, which --recipe plain has not",
            ),
            (weights_fit, "weights, directions and patience must not be negative"),
            (self.reconstruct + self.contrast > 0, "there must be a loss"),
            (
                self.start is None or (self.unit and not self.contrast + self.latent_channels),
                "a network to start from has its own latent, of unit length, and is not trained: "
                "there is no contrast, and there are no latent channels",
            ),
            (self.max_pixels >= 1, "the limit of pixels must be at least 1"),
        ):
            if not fits:
                raise ValueError(otherwise)


@dataclass(frozen=True)
class HeadSettings:
    """Which last layers follow a model: see :class:`TrainingSettings`.

    ``dims`` directions are kept, its ``principal``, or with 0 all as they are; ``colours`` and
    ``unit`` are those there. Two images are of a kind if each is among the ``mutual`` nearest of
    the other, where directions are divided by ``power`` of their deviation.
    """

    dims: int = 256
    colours: Colours = "auto"
    unit: bool = True
    seed: int = 0
    mutual: int = 3
    power: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.dims < 0:
            raise ValueError("the number of values must not be negative")
        if self.colours not in get_args(Colours):
            raise ValueError(f"colours must be one of {', '.join(get_args(Colours))}")


@dataclass(frozen=True)
class AdaptSettings:
    """How last layers are fitted to images, of which up to ``most`` are drawn with ``seed``.

    Embeddings get up to ``dims`` values, if there are more images than that; with 0 they keep all.
    ``colours`` says how much they count. With ``int8`` the network computes in integers, calibrated
    on some of the images: sooner, with embeddings that differ a little. ``exclude`` and
    ``max_pixels`` are those of :class:`IngestSettings`.
    """

    dims: int = 256
    colours: Colours = "auto"
    seed: int = 0
    most: int = 5_000
    int8: bool = False
    exclude: str | Iterable[str] = ()
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        object.__setattr__(self, "exclude", checked_patterns(self.exclude))
        HeadSettings(self.dims, self.colours)
        if self.most < 2 or self.seed < 0:
            raise ValueError("at least 2 images must be drawn, and the seed must not be negative")
        DecodeRules(self.max_pixels)


PLAIN = TrainingSettings(
    image_size=256,
    epochs=10,
    batch_size=32,
    learning_rate=1e-3,
    validation_split=0.1,
    contrast=0.0,
    principal=0,
    unit=False,
    colours="none",
    time_budget=math.inf,
)
"""Reconstruct the input: Adam, mean squared error, flattened latent, nothing else."""

DECODER = TrainingSettings(
    epochs=200, batch_size=32, learning_rate=1e-3, contrast=0.0, time_budget=60.0, patience=10
)
"""What to begin with for ``replace(DECODER, start=NAME)``: a minute of a decoder."""

RECIPES: dict[Recipe, TrainingSettings] = {"contrastive": TrainingSettings(), "plain": PLAIN}


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate: labels from the CSV file ``labels``, or else the names of folders.

    The labels are in its column ``column``; ``queries`` images at most are drawn with ``seed``.
    ``exclude`` and ``max_pixels`` are those of :class:`IngestSettings`.
    """

    labels: str | None = None
    column: str = "label"
    queries: int = 1_000
    seed: int = 0
    exclude: str | Iterable[str] = ()
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        object.__setattr__(self, "exclude", checked_patterns(self.exclude))
        if self.queries < 1 or self.seed < 0:
            raise ValueError("there must be at least 1 query, and the seed must not be negative")
        if self.max_pixels < 1:
            raise ValueError("the limit of pixels must be at least 1")


@dataclass(frozen=True)
class EncoderSource:
    """An encoder made elsewhere: a ``file`` that is an ONNX model or, with ``layer``, a Keras one.

    What is None is taken from the file, or else from the ``preset``, or else is what such models
    mostly have: pixels from 0 to 1 for float inputs of ONNX, from 0 to 255 for others, no mean and
    deviation, RGB, images stretched.
    """

    file: str
    name: str | None = None
    layer: str | None = None
    image_size: int | None = None
    layout: Layout | None = None
    scale: Scale | None = None
    channels: Channels = "rgb"
    mean: Triple | None = None
    std: Triple | None = None
    output: str | None = None
    normalize: bool = False
    preset: Preset | None = None
    fit: Fit | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for value, known in (
            *((self.layout, Layout), (self.scale, Scale)),
            *((self.channels, Channels), (self.preset, Preset), (self.fit, Fit)),
        ):
            if value is not None and value not in get_args(known):
                raise ValueError(f"{value}: must be one of {', '.join(get_args(known))}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError("the image size must be at least 1")
