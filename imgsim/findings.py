"""What the curation of a collection finds."""

from dataclasses import dataclass, field
from typing import Literal

from imgsim.results import Match, Refusal

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
class Member:
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
    members: tuple[Member, ...]

    @property
    def representative(self) -> Member:
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
