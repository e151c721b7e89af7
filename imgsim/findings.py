"""What the curation of a collection finds, and what it did to files.

A path is a ``str`` decoded as :func:`os.fsdecode` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from imgsim.results import Match, Refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FileChange:
    """A file of so many ``bytes`` that was moved to ``target``, as ``kept`` stays instead.

    Where it was replaced by a hard link to ``kept``, the target is its own path.
    """

    path: str
    target: str
    kept: str
    bytes: int


@dataclass(frozen=True)
class LeftAlone:
    """A file that nothing was done to, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ChangeReport:
    """What was done to files, or would be; ``manifest`` is what undoes it, empty if nothing was."""

    changed: tuple[FileChange, ...]
    left: tuple[LeftAlone, ...]
    manifest: str = ""


@dataclass(frozen=True)
class RestoreReport:
    """The paths of the files that are as they were again, or would be, and of those that are not.

    Of files that were moved, the collection knows ``known`` again. ``warnings`` say what failed
    after all files were there.
    """

    restored: tuple[str, ...]
    left: tuple[LeftAlone, ...]
    known: int = 0
    warnings: tuple[str, ...] = ()


MapMethod = Literal["linear", "fast", "good"]
"""How a map is laid out: by two principal directions, or by t-SNE in few or in many steps."""


class StageProgress(Protocol):
    """Receives how many of ``total`` items of a stage of the work are done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note."""


@dataclass(frozen=True, eq=False)
class ImageMap:
    """Images in a plane, where those that are alike are near each other, in the order of paths.

    ``ids`` (n,) int64 and ``paths`` say which images, ``positions`` (n, 2) float32 where they are.
    ``nearest`` (n, k) int32 has for each image the rows of its nearest others by embedding, nearest
    first, and ``distances`` (n, k) float32 their Euclidean distances. ``kept`` is the share of the
    10 nearest that are among the 10 nearest in the plane too, counted for up to 1,000 images.
    """

    ids: "NDArray[np.int64]"
    paths: tuple[str, ...]
    positions: "NDArray[np.float32]"
    nearest: "NDArray[np.int32]"
    distances: "NDArray[np.float32]"
    kept: float
    method: MapMethod

    def __len__(self) -> int:
        return len(self.ids)


Look = Literal["blank", "flat", "usual", "unknown"]
"""What a picture looks like: one colour, hardly more, a picture; or its file cannot be read."""

Grouping = Literal["hdbscan", "k-means"]
"""How images are grouped: as dense regions, of which some images are in none; or all of them."""


@dataclass(frozen=True)
class Outlier:
    """An image that is far from all others: its k-th nearest other is at ``distance``.

    That is ``deviations`` above the median of all images, in robust standard deviations; see
    :class:`OutlierReport`. ``matches`` are its nearest others.
    """

    rank: int
    id: int
    path: str
    distance: float
    deviations: float
    look: Look
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class OutlierReport:
    """The images that are farthest from others, the farthest first.

    Of ``images``, half have their ``k``-th nearest other within ``median``; ``deviation`` is the
    median absolute deviation from it, times 1.4826: the standard deviation of a normal
    distribution. ``beyond`` so many images are more than 3.5 of them away. ``k`` is smaller than
    asked for where there are fewer others.
    """

    images: int
    k: int
    median: float
    deviation: float
    beyond: int
    outliers: tuple[Outlier, ...]


@dataclass(frozen=True)
class Pick:
    """An image of a sample: no image is farther than ``radius`` from those up to this one."""

    rank: int
    id: int
    path: str
    radius: float


@dataclass(frozen=True)
class Sample:
    """Some of ``images``: each of these is within ``radius`` of one of the ``picks``."""

    images: int
    radius: float
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class ClusterMember:
    """An image of a cluster, whose mean is at ``distance``."""

    id: int
    path: str
    distance: float


@dataclass(frozen=True)
class Apart:
    """An image that is in no cluster."""

    id: int
    path: str


@dataclass(frozen=True)
class Cluster:
    """Images of a kind, the nearest to their mean first, and their ``share`` of all."""

    number: int
    share: float
    members: tuple[ClusterMember, ...]

    @property
    def representative(self) -> ClusterMember:
        """Return the image with the least mean squared distance to the others."""
        return self.members[0]


@dataclass(frozen=True)
class ClusterReport:
    """The clusters of ``images``, the largest first; those ``apart`` are in none."""

    images: int
    grouping: Grouping
    clusters: tuple[Cluster, ...]
    apart: tuple[Apart, ...] = ()


@dataclass(frozen=True)
class Mislabelled:
    """An image that may have the wrong label: ``probability`` says how sure that is.

    ``proposed`` is the other label that is the likeliest. The ten ``nearest`` are paths, nearest
    first, and ``labels`` theirs.
    """

    rank: int
    path: str
    label: str
    proposed: str
    probability: float
    nearest: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class LabelReport:
    """What the neighbours say of the labels of ``images``, the surest first.

    The images have so many different ``labels``. An estimated share of them is ``wrong``.
    ``unlabelled`` images have no label and were left out; ``refused`` ones cannot be decoded.
    ``excluded`` is that of :class:`imgsim.results.IngestReport`.
    """

    images: int
    labels: int
    wrong: float
    found: tuple[Mislabelled, ...]
    unlabelled: int = 0
    refused: tuple[Refusal, ...] = ()
    excluded: dict[str, int] = field(default_factory=dict)


MemberKind = Literal["kept", "same file", "exact", "near", "posed"]
"""How a member of a group is related to the image that is kept."""


@dataclass(frozen=True)
class LearntRadius:
    """At which distance images are compared by their pixels, learnt from the user's pictures.

    It is for at most ``false_alarms`` of the images with an unrelated one that passes; ``recall``
    is the share of changed pictures that pass, of ``sampled`` images. There were ``images`` then,
    and it was ``learnt_at`` in seconds since the epoch.
    """

    radius: float
    false_alarms: float
    recall: float
    sampled: int
    images: int
    learnt_at: int


@dataclass(frozen=True)
class RadiusCurves:
    """What a radius was learnt from: distances in ascending order.

    ``same`` are those of images to themselves changed, by the kind of change, and ``passed`` the
    share of each kind that passes. ``unrelated`` are those to the nearest image that looks
    different, of ``compared`` images; ``lookalikes`` those to the nearest that looks almost the
    same. ``limit`` says what kept the radius from being greater. ``remembered`` says whether the
    collection has it now.
    """

    learnt: LearntRadius
    same: Mapping[str, tuple[float, ...]]
    passed: Mapping[str, float]
    unrelated: tuple[float, ...]
    lookalikes: tuple[float, ...]
    compared: int
    limit: str
    remembered: bool = False


@dataclass(frozen=True)
class DuplicateMember:
    """An image in a group of duplicates.

    ``kind`` says what it is beside the image that is kept: another name of a file in the group
    ("same file"), of the same content ("exact"), similar ("near"), or that if it is mirrored or
    turned ("posed"). ``distance`` is to the image that is kept; ``modified`` is seconds since the
    epoch.
    """

    id: int
    path: str
    kind: MemberKind
    distance: float
    width: int
    height: int
    bytes: int
    format: str
    modified: float


@dataclass(frozen=True)
class DuplicateGroup:
    """Images of which each is a duplicate of each other; the first one is kept."""

    members: tuple[DuplicateMember, ...]

    @property
    def kept(self) -> DuplicateMember:
        """Return the image that is kept."""
        return self.members[0]

    @property
    def spare(self) -> tuple[DuplicateMember, ...]:
        """Return the images that are not kept; other names of a file in the group are not spare."""
        return tuple(each for each in self.members[1:] if each.kind != "same file")


@dataclass(frozen=True)
class DuplicateReport:
    """Groups of duplicates within a ``radius``, by the paths of the images that are kept.

    They are of ``images`` that were looked at. ``left_alone`` are paths
    of images whose files are gone, unreadable or changed since they were stored; no group has them.
    """

    groups: tuple[DuplicateGroup, ...]
    radius: float
    images: int
    left_alone: tuple[str, ...]


@dataclass(frozen=True)
class JudgedPair:
    """Two contents that somebody said are no duplicates, and the paths of images that have them.

    ``first`` and ``second`` are their sha256, in hexadecimal digits.
    """

    first: str
    second: str
    first_paths: tuple[str, ...]
    second_paths: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """An image of one folder, and those of another that are near-duplicates of it.

    ``path`` is the image; ``source`` is the nearest of the others, at ``distance``; ``kind`` is
    "exact", "near" or "posed".
    """

    path: str
    source: str
    kind: MemberKind
    distance: float


@dataclass(frozen=True)
class LeakReport:
    """The ``leaks`` of ``images`` that were looked at, by path, within a ``radius``."""

    leaks: tuple[Leak, ...]
    images: int
    radius: float
    refused: tuple[str, ...]
