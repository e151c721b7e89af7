"""What users decide about duplicates."""

from dataclasses import dataclass
from typing import Literal, get_args

from imgsim.options import Paths, SearchFilter, listed

Keep = Literal["largest", "oldest", "newest", "shortest-path", "first-under"]
"""Which image of a group is kept: see :class:`DuplicateSettings`."""

Folders = Literal["any", "across", "within"]
"""Which pairs count: all, those of two folders, or those of one folder."""

FALSE_ALARMS = 0.001
"""Which share of the images may have an unrelated one within a radius that is learnt."""


EVERYTHING = SearchFilter()
"""Admits all images."""


@dataclass(frozen=True)
class DuplicateSettings:
    """Which images are duplicates, and which of them is kept.

    Those within ``radius`` of each other are whose pixels look the same, or with ``by_distance``
    all of them. Where ``radius`` is None, it is learnt, so that at most ``false_alarms`` of the
    images have an unrelated one that passes. ``keep`` is the one with the most pixels, the oldest
    or newest file, the one with the shortest path, or the first one in the first of the folders
    ``first_under``; where that leaves several, the one with the most pixels, then bytes, then the
    first path. With ``folders`` "across", images in the folder of the one that is kept are left
    out, with "within", those of different folders are no pair. ``mirror`` and ``rotate`` also find
    those that are mirrored, or turned by quarters. Only images that ``within`` admits count; its
    radius does not. What makes no sense raises ValueError.
    """

    radius: float | None = None
    false_alarms: float = FALSE_ALARMS
    keep: Keep = "largest"
    first_under: Paths = ()
    folders: Folders = "any"
    mirror: bool = False
    rotate: bool = False
    by_distance: bool = False
    within: SearchFilter = EVERYTHING

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        object.__setattr__(self, "first_under", tuple(listed(self.first_under)))
        for value, known in ((self.keep, Keep), (self.folders, Folders)):
            if value not in get_args(known):
                raise ValueError(f"{value}: must be one of {', '.join(get_args(known))}")
        if self.radius is not None:
            SearchFilter(self.radius)
        if not 0 < self.false_alarms < 1:
            raise ValueError("the share of false alarms must be between 0 and 1")
        if bool(self.first_under) != (self.keep == "first-under"):
            raise ValueError("folders are needed to keep the first under them, and only for that")
        if "" in listed(self.first_under):
            raise ValueError("a path is empty")
