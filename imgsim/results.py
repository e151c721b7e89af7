"""What callers get back.

A path is a ``str`` decoded as :func:`os.fsdecode` does: bytes that are not valid UTF-8 are kept as
surrogates, and :func:`os.fsencode` gives the exact bytes back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from operator import add, attrgetter
from typing import TYPE_CHECKING, Literal, Protocol, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgsim.findings import LearntRadius
    from imgsim.scores import Recognition


class Progress(Protocol):
    """Receives how many of ``total`` items are done."""

    def __call__(self, done: int, total: int) -> None:
        """Take note."""


@dataclass(frozen=True)
class Match:
    """A neighbour: ``rank`` counts from 1, ``distance`` is Euclidean, in float64.

    ``collection`` is the folder of its collection, where the search was over several.
    """

    rank: int
    id: int
    path: str
    distance: float
    collection: str = ""


@dataclass(frozen=True)
class QueryResult:
    """The matches of one query image, nearest first.

    ``query`` is its path, or for an image in memory a name with its number among the queries.
    """

    query: str
    matches: tuple[Match, ...]


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
        return SearchStats(*map(add, _counts(self), _counts(other)))


_counts = attrgetter(*(each.name for each in fields(SearchStats)))


@dataclass(frozen=True)
class SearchResults(Sequence[QueryResult]):
    """The results of some query images, in order, and what the search looked at."""

    results: tuple[QueryResult, ...]
    stats: SearchStats

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> QueryResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[QueryResult, ...]: ...
    def __getitem__(self, index: int | slice) -> QueryResult | tuple[QueryResult, ...]:
        """Return the result of one query, or of some."""
        return self.results[index]


@dataclass(frozen=True, eq=False)
class EmbeddingMatches:
    """The nearest stored images of q queries, and what the search looked at.

    ``ids`` (q, k) int64 and ``distances`` (q, k) float64 are in ascending (distance, id); where
    fewer were found, -1 and infinity fill up the row. ``ids, distances = matches`` unpacks them.
    """

    ids: "NDArray[np.int64]"
    distances: "NDArray[np.float64]"
    stats: SearchStats

    def __iter__(self) -> "Iterator[NDArray[np.int64] | NDArray[np.float64]]":
        yield self.ids
        yield self.distances


@dataclass(frozen=True)
class ImageInfo:
    """A stored image: ``width`` and ``height`` of the upright pixels, ``bytes`` of the file.

    Of a ``damaged`` one, some pixels could not be decoded, and this was accepted.
    """

    id: int
    path: str
    width: int
    height: int
    bytes: int
    damaged: bool = False


@dataclass(frozen=True)
class ImageNeighbours:
    """The nearest other images of one stored image, nearest first."""

    id: int
    path: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Refusal:
    """A file that was not ingested, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder of a collection: ``embeddings`` of ``images`` stored are there.

    ``preprocessing`` is its ``encoder.json``.
    """

    name: str
    fingerprint: str
    active: bool
    dim: int
    embeddings: int
    images: int
    preprocessing: dict[str, object]
    directory: str


@dataclass(frozen=True)
class EncoderReport:
    """What an import made, and what looked odd about it."""

    encoder: EncoderInfo
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network that was trained on ImageNet: its images have ``side`` x ``side`` pixels.

    It gives ``dim`` values for each. Its weights may be ``installed``.
    """

    name: str
    side: int
    dim: int
    installed: bool


@dataclass(frozen=True)
class AdaptReport:
    """What an adaptation made: an encoder whose last layers are fitted to ``images``.

    ``colours`` says how much they count: much, some, little or none. ``refused`` files could not be
    decoded; ``excluded`` is that of :class:`IngestReport`.
    """

    encoder: EncoderInfo
    images: int
    colours: str
    refused: tuple[Refusal, ...]
    excluded: dict[str, int]


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did; ``seen`` is the sum of the seven counts of files.

    ``moved`` images kept their id: their content is at a new path, and the old one is gone.
    ``linked`` files are stored under another name, which links or mounts lead to. What is
    ``skipped`` is no image and does not claim to be one. ``refused`` files are no readable images,
    which the catalog keeps in mind; ``unreachable`` ones could not be read this time. Besides, of
    the images stored at and under the paths, ``not_found`` ones were not among the files: all the
    others are those added, changed, moved and unchanged. So many of the stored files are
    ``hard_linked``: further names of one of them. Of ``damaged`` ones, added or changed, some
    pixels could not be decoded, and this was accepted. ``excluded`` says how many folders and files
    each pattern has left out, whatever is in these folders. ``warnings`` say what went wrong after
    all images were stored.
    """

    added: int
    changed: int
    moved: int
    unchanged: int
    skipped: int
    excluded: dict[str, int]
    refused: tuple[Refusal, ...] = ()
    unreachable: tuple[Refusal, ...] = ()
    not_found: int = 0
    linked: int = 0
    hard_linked: int = 0
    damaged: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def stored(self) -> int:
        """Return how many of the files are stored images now."""
        return self.added + self.changed + self.moved + self.unchanged

    @property
    def seen(self) -> int:
        """Return the number of files looked at."""
        others = self.linked + self.skipped + len(self.refused) + len(self.unreachable)
        return self.stored + others


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

    ``encoded`` images had their embeddings made anew from the files. ``forgotten`` are the paths of
    those whose file is gone, or is another image by now; ``kept`` those whose file cannot be read
    at the moment. ``bounds`` are so many files that were made anew, ``dropped`` so many embeddings
    by encoders that are not in use.
    """

    encoded: int
    forgotten: tuple[str, ...]
    kept: tuple[str, ...]
    bounds: int
    dropped: int


@dataclass(frozen=True)
class ReencodeReport:
    """What a reencode did.

    Of ``images`` stored, ``encoded`` got an embedding in this run. If some are ``refused``, because
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
    """Segments before and after, and how many embeddings of no image were dropped."""

    before: int
    after: int
    dropped: int


TrainingStage = Literal["prepare", "encode", "train", "export", "head", "check"]
"""What a training does: load TensorFlow, train, write files, fit the last layers, try them out.

One that starts from a network encodes the images first.
"""


@dataclass(frozen=True)
class TrainingProgress:
    """A moment of a training run; ``done`` of ``total`` images in epoch ``epoch`` (from 1).

    ``val_loss`` is of the last epoch that ended; ``ended`` says that it is this one, and is so once
    for each epoch. In other stages than train, and encode, nothing is counted.
    """

    stage: TrainingStage
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

    ``images`` were trained on or held out; ``unseen`` others were not reached before the end, and
    may be unreadable. ``onnx_difference`` is the greatest absolute difference between the
    latents by the ONNX encoder and by Keras on ``compared`` images; ``colours`` says how much
    they count: much, some, little or none. ``excluded`` is that of :class:`IngestReport`.

    Where it started from a network, ``start`` is that encoder's name: the history is that of a
    decoder, and nothing was to be compared.
    """

    encoder: EncoderInfo
    images: int
    unseen: int
    refused: tuple[Refusal, ...]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    interrupted: bool
    compared: int
    onnx_difference: float
    colours: str
    recognition: "Recognition"
    excluded: dict[str, int] = field(default_factory=dict)
    start: str | None = None


@dataclass(frozen=True)
class CollectionInfo:
    """Facts about a collection; the encoder's are None until one is trained.

    ``disk_bytes`` are those of all its files, ``embedding_bytes`` those of the embeddings alone;
    ``duplicates`` says at which distance images are, once that is learnt; ``roots`` are the folders
    that were ingested; ``formats`` of images are read; ``devices`` can compute embeddings;
    ``versions`` are of what does the work.
    """

    path: str
    catalog_schema: str
    images: int
    refused: int
    roots: tuple[str, ...]
    segments: int
    embedding_bytes: int
    disk_bytes: int
    encoder: str | None
    fingerprint: str | None
    dim: int | None
    image_size: tuple[int, int] | None
    duplicates: "LearntRadius | None"
    formats: tuple[str, ...]
    devices: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Damage:
    """A file of the collection that is not what the catalog says it is."""

    path: str
    expected: str
    found: str
