"""Frozen records that cross the layers.

A path is a ``str`` decoded as :func:`os.fsdecode` does: bytes that are not valid UTF-8 are kept as
surrogates, and :func:`os.fsencode` gives the exact bytes back.
"""

import math
from dataclasses import asdict, dataclass
from typing import Protocol


class Progress(Protocol):
    """Receives how many of ``total`` items are done."""

    def __call__(self, done: int, total: int) -> None:
        """Take note."""


@dataclass(frozen=True)
class Match:
    """A neighbour: ``rank`` counts from 1, ``distance`` is Euclidean, in float64."""

    rank: int
    id: int
    path: str
    distance: float


@dataclass(frozen=True)
class QueryResult:
    """The matches of one query image, nearest first."""

    query: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Within:
    """Which stored images count as neighbours.

    Those at a distance of at most ``radius``, and where ``under`` or ``not_under`` name folders,
    those whose path is in or below one of the former and none of the latter. A radius that is
    negative or no number, or a folder without a name, raises ValueError.
    """

    radius: float = math.inf
    under: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a radius that makes no sense."""
        if not self.radius >= 0:
            raise ValueError("the radius must be a number that is not negative")
        if "" in (*self.under, *self.not_under):
            raise ValueError("a path is empty")


@dataclass(frozen=True)
class SearchStats:
    """How many rows searches looked at in each way, summed over queries.

    ``scanned`` rows were read whole, ``bounded`` ones had the first level of their bounds read. The
    levels left ``first_level`` and ``second_level``; ``distances`` were computed in the end.
    """

    queries: int = 0
    scanned: int = 0
    bounded: int = 0
    first_level: int = 0
    second_level: int = 0
    distances: int = 0

    def __add__(self, other: "SearchStats") -> "SearchStats":
        """Return the sums."""
        mine, others = asdict(self), asdict(other)
        return SearchStats(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class ImageNeighbours:
    """The nearest other images of one stored image, nearest first."""

    id: int
    path: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class ImageFile:
    """A regular file that may be an image; ``mtime_ns`` is nanoseconds since the epoch.

    ``claimed`` says that the file was named by the user or has an image's suffix: if its content is
    no image, that is a refusal to report; any other such file is passed over.
    """

    path: str
    size: int
    mtime_ns: int
    claimed: bool


@dataclass(frozen=True)
class ImageRecord:
    """What the catalog keeps of one image; ``width`` and ``height`` are the upright pixels."""

    path: str
    size: int
    mtime_ns: int
    sha256: bytes
    width: int
    height: int


@dataclass(frozen=True)
class StoredImage:
    """An image that the catalog has: its vector is row ``row`` of ``segment``."""

    id: int
    path: str
    width: int
    height: int
    segment: "Segment"
    row: int


@dataclass(frozen=True)
class Refusal:
    """A file that was not ingested, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class EncoderRecord:
    """An encoder that the collection holds; ``fingerprint`` is the sha256 of its ONNX file."""

    id: int
    fingerprint: str
    dim: int
    name: str
    active: bool


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder of a collection: ``vectors`` of ``images`` stored are there.

    ``feed`` is its ``encoder.json``.
    """

    name: str
    fingerprint: str
    active: bool
    dim: int
    vectors: int
    images: int
    feed: dict[str, object]
    directory: str


@dataclass(frozen=True)
class EncoderReport:
    """What an import made, and what looked odd about it."""

    encoder: EncoderInfo
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Segment:
    """A segment file: ``rows`` vectors of ``dim`` float32; ``sha256`` is of the whole file."""

    name: str
    rows: int
    dim: int
    sha256: str


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did; ``seen`` is the sum of the seven counts of files.

    ``moved`` images kept their id: their content is at a new path, and the old one is gone. What is
    ``skipped`` is no image and does not claim to be one. ``refused`` files are no readable images,
    which the catalog keeps in mind; ``unreachable`` ones could not be read this time. Besides, of
    the images stored at and under the paths, ``unmet`` ones were not among the files: all the
    others are those added, changed, moved and unchanged. ``warnings`` say what went wrong after all
    images were stored.
    """

    added: int
    changed: int
    moved: int
    unchanged: int
    skipped: int
    refused: tuple[Refusal, ...] = ()
    unreachable: tuple[Refusal, ...] = ()
    unmet: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def stored(self) -> int:
        """Return how many of the files are stored images now."""
        return self.added + self.changed + self.moved + self.unchanged

    @property
    def seen(self) -> int:
        """Return the number of files looked at."""
        return self.stored + self.skipped + len(self.refused) + len(self.unreachable)


@dataclass(frozen=True)
class UpkeepReport:
    """What upkeep did: how many ``images`` and refused files it was about.

    ``paths`` are: of files that are gone, for prune; of arguments under which nothing is stored,
    for remove; of images whose file is not at the new place, for relocate. ``missing`` are folders
    that are missing or empty, and whose images were kept.
    """

    images: int
    refused: int
    paths: tuple[str, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    ``encoded`` images had their vectors made anew from the files. ``forgotten`` are the paths of
    those whose file is gone, or is another image by now; ``kept`` those whose file cannot be read
    at the moment. ``bounds`` are so many files that were made anew, ``dropped`` so many vectors of
    encoders that are not in use.
    """

    encoded: int
    forgotten: tuple[str, ...]
    kept: tuple[str, ...]
    bounds: int
    dropped: int


@dataclass(frozen=True)
class ReencodeReport:
    """What a reencode did.

    Of ``images`` stored, ``encoded`` got a vector in this run. If some are ``refused``, because
    they cannot be read or have other content by now, the encoder has not taken over. ``warnings``
    say what failed after that.
    """

    images: int
    encoded: int
    refused: tuple[Refusal, ...]
    switched: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompactReport:
    """Segments before and after, and how many vectors of no image were dropped."""

    before: int
    after: int
    dropped: int


@dataclass(frozen=True)
class TrainingProgress:
    """A moment of a training run; ``done`` of ``total`` images in epoch ``epoch`` (from 1).

    ``val_loss`` is of the last epoch that ended; ``ended`` says that it is this one.
    """

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    val_loss: float | None
    images_per_second: float
    seconds_left: float
    ended: bool


@dataclass(frozen=True)
class EpochRecord:
    """One row of history.csv; :class:`TrainingSettings` says what the losses are."""

    epoch: int
    loss: float
    val_loss: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class TrainingReport:
    """What a training run made.

    ``onnx_difference`` is the greatest absolute difference between the latents of the ONNX encoder
    and of Keras on ``compared`` images; ``colours`` says how much they count: much, little or none.
    """

    encoder: EncoderInfo
    images: int
    refused: tuple[Refusal, ...]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    interrupted: bool
    compared: int
    onnx_difference: float
    colours: str


@dataclass(frozen=True)
class CollectionInfo:
    """Facts about a collection; the encoder's are None until one is trained."""

    path: str
    schema: str
    images: int
    refused: int
    segments: int
    vector_bytes: int
    encoder: str | None
    dim: int | None
    image_size: tuple[int, int] | None


@dataclass(frozen=True)
class Score:
    """A mean over queries, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """How well some vectors retrieve; ``imgsim.evaluate`` defines the measures.

    ``recall`` has recall@k by k.
    """

    recall: dict[int, Score]
    p10: Score
    map: Score


@dataclass(frozen=True)
class ClassScore:
    """What the 10 nearest of a label's queries are: shares by label, the greatest first."""

    label: str
    images: int
    queries: int
    retrieved: dict[str, float]


@dataclass(frozen=True)
class Retrieved:
    """A query image and its label, its nearest images and theirs."""

    query: str
    label: str
    nearest: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """How well latents retrieve labelled images, and 32x32 pixels and a histogram beside them.

    ``unlabelled`` images have no label and were left out; ``refused`` ones cannot be decoded.
    """

    images: int
    queries: int
    latents: Scores
    pixels: Scores
    histogram: Scores
    classes: tuple[ClassScore, ...]
    retrieved: tuple[Retrieved, ...]
    unlabelled: int = 0
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Damage:
    """A file of the collection that is not what the catalog says it is."""

    path: str
    expected: str
    found: str
