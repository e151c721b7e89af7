"""Images that are far from all others.

An image is as far out as its k-th nearest other is away (S. Ramaswamy and others, Efficient
algorithms for mining outliers from large data sets, 2000). Copies of an image do not count, so that
a pair of them does not hide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.errors import ImageError
from imgsim.findings import Look, Outlier, OutlierReport
from imgsim.images.decode import thumbnail
from imgsim.index.distance import Nearest
from imgsim.index.gallery import Searchable
from imgsim.jobs.neighbours import matches, nearest_others, paths_of
from imgsim.options import STORED_RULES, SearchFilter
from imgsim.parallel import in_threads
from imgsim.results import Match, Progress

_AT_ONCE = 1_024  # images searched for
_SIDE = 32  # of the thumbnails that are looked at
_BLANK, _FLAT = 2.0, 8.0  # standard deviations of channels of 0 to 255

BEYOND = 3.5
"""Robust deviations beyond which a value is usually called an outlier.

B. Iglewicz and D. C. Hoaglin, How to detect and handle outliers, 1993.
"""


def outliers(
    directory: Directory,
    k: int,
    most: int,
    within: SearchFilter,
    on_progress: Progress | None = None,
) -> OutlierReport:
    """Return up to ``most`` images whose ``k``-th nearest others are farthest.

    Only what ``within`` admits counts, as outlier and as neighbour. Of images as far out, the first
    by path comes first.
    """
    with directory.reading() as snapshot, directory.gallery(snapshot, within) as gallery:
        search = _Search(snapshot, gallery, k)
        ids, found = _kth_distances(search, on_progress)
        paths = paths_of(snapshot, ids.tolist())
        order = sorted(range(len(ids)), key=lambda row: (-found[row], paths[int(ids[row])]))
        rows = [row for row in order[:most] if found[row] > 0]
        chosen = [int(number) for number in ids[rows]]
        near = _matches(directory, search, chosen)
    median, deviation = _spread(found)
    away = (found - median) / (deviation or 1.0)
    looks = _looks([paths[number] for number in chosen])
    return OutlierReport(
        images=len(ids),
        k=max([0, *map(len, near)]),
        median=median,
        deviation=deviation,
        beyond=int((away > BEYOND).sum()),
        outliers=tuple(
            Outlier(rank, number, paths[number], float(found[row]), float(away[row]), look, mine)
            for rank, (row, number, look, mine) in enumerate(
                zip(rows, chosen, looks, near, strict=True), start=1
            )
        ),
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """Looks for the ``k`` nearest others of stored images, copies of these apart."""

    snapshot: Snapshot
    gallery: Searchable
    k: int

    @cached_property
    def _copied(self) -> dict[int, bytes]:
        return self.snapshot.copied()

    def nearest(self, ids: NDArray[np.int64], rows: NDArray[np.float32]) -> list[Nearest]:
        """Return the nearest others of images, given by id and embedding."""
        contents = self._contents if self._copied else None
        return nearest_others(self.gallery, ids, rows, self.k, contents).nearest

    def _contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        return {number: self._copied[number] for number in ids if number in self._copied}


def _kth_distances(
    search: _Search, on_progress: Progress | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return ids (n,) of images, and how far the k-th nearest other, or the last, of each is."""
    numbers, found, total = list[int](), list[float](), len(search.gallery)
    for ids, rows in search.gallery.blocks():
        for start in range(0, len(ids), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            numbers += ids[part].tolist()
            nearest = search.nearest(ids[part], rows[part])
            found += [float(away[-1]) if len(away) else 0.0 for _, away in nearest]
            if on_progress is not None:
                on_progress(len(numbers), total)
    return np.array(numbers, np.int64), np.array(found)


def _matches(directory: Directory, search: _Search, ids: Sequence[int]) -> list[tuple[Match, ...]]:
    """Return the nearest others of some images."""
    if not ids:
        return []
    snapshot = search.snapshot
    places = snapshot.places(ids)
    rows = directory.store.embeddings([places[number] for number in ids], snapshot.segment_ids)
    return matches(snapshot, search.nearest(np.array(ids), rows))


def _spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median, and a standard deviation that outliers do not move much.

    That is the median absolute deviation from it, or where most values are the same, the mean one;
    each in units of those of a normal distribution.
    """
    if not len(values):
        return 0.0, 0.0
    median = float(np.median(values))
    away = np.abs(values - median)
    return median, float(1.4826 * np.median(away) or 1.2533 * away.mean())


def _looks(paths: Sequence[str]) -> list[Look]:
    return [
        "unknown" if isinstance(look, ImageError) else look for look in in_threads(_look, paths)
    ]


def _look(path: str) -> Look:
    """Say whether a picture has one colour, or hardly more, from a small thumbnail."""
    pixels = thumbnail(path, _SIDE, STORED_RULES).values
    deviation = float(pixels.std(axis=(0, 1)).max())
    if deviation < _BLANK:
        return "blank"
    return "flat" if deviation < _FLAT else "usual"
