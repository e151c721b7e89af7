"""What the curation of a collection finds.

A path is a ``str`` decoded as :func:`os.fsdecode` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
