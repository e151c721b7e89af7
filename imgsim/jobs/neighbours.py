"""Lists of neighbours, from what a search found to what a user gets."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.errors import CollectionDamaged
from imgsim.index.distance import Block, Nearest
from imgsim.index.gallery import Finder, Searchable
from imgsim.index.search import Answer
from imgsim.jobs.nearest import Contents, Own, nearest_but
from imgsim.options import SearchFilter
from imgsim.results import ImageNeighbours, Match, Progress

SEARCHED = 1_024
MATCHED = 200_000
_AT_FIRST = 16  # images searched at once when nobody knows how many matches there are


class ImageFacts(Protocol):
    """What lists need to know of images, by id."""

    @property
    def path(self) -> Path:
        """Where the facts are from."""

    def paths(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the paths of the images with these ids."""

    def contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the hash of the content of each of the images with these ids."""


@dataclass(frozen=True)
class NeighbourLists:
    """The ``k`` nearest others (None: all) that ``within`` admits of each stored image, by id.

    At most ``searched`` images are searched for at once, and fewer if they have ``matched`` matches
    or more, of a hundred bytes and more each.
    """

    directory: Directory
    k: int | None
    within: SearchFilter
    searched: int = SEARCHED
    matched: int = MATCHED

    def __call__(self, on_progress: Progress | None = None) -> Iterator[ImageNeighbours]:
        """Yield the lists."""
        with self.opened() as opened:
            yield from opened.lists(opened.everything.blocks(), on_progress)

    @contextmanager
    def opened(self) -> Iterator["OpenedLists"]:
        """Open what they are computed from, at one instant."""
        with (
            self.directory.reading() as snapshot,
            self.directory.gallery(snapshot) as everything,
        ):
            opened = OpenedLists(self, snapshot, everything, everything)
            if replace(self.within, no_self=False, distinct=False) == SearchFilter():
                yield opened
                return
            with self.directory.gallery(snapshot, self.within) as admitted:
                yield replace(opened, admitted=admitted)


@dataclass(frozen=True)
class OpenedLists:
    """What lists are computed from: images that have them, and those that are ``admitted``."""

    asked: NeighbourLists
    snapshot: Snapshot
    everything: Searchable
    admitted: Searchable

    def lists(
        self, blocks: Iterable[Block], on_progress: Progress | None, done: int = 0
    ) -> Iterator[ImageNeighbours]:
        """Yield the lists of the images in some blocks, with ``done`` before them."""
        total = len(self.everything)
        lists = self.lister(self.snapshot)(self.admitted, blocks)
        for count, each in enumerate(lists, done + 1):
            yield each
            if on_progress is not None:
                on_progress(count, total)

    def lister(self, images: ImageFacts) -> "Lister":
        """Return what computes lists, with the same facts from wherever."""
        asked = self.asked
        return Lister(asked.k, asked.within.distinct, asked.searched, asked.matched, images)


@dataclass(frozen=True)
class Lister:
    """Computes lists as :class:`NeighbourLists` has them, of images that it is given."""

    k: int | None
    distinct: bool
    searched: int
    matched: int
    images: ImageFacts

    def __call__(self, admitted: Finder, blocks: Iterable[Block]) -> Iterator[ImageNeighbours]:
        """Yield the lists of the images in some blocks, of neighbours that are admitted."""
        search = partial(self._search, admitted)
        for ids, found in in_portions(blocks, search, self.searched, self.matched):
            names = paths_of(self.images, ids.tolist())
            for number, mine in zip(ids.tolist(), matches(self.images, found), strict=True):
                yield ImageNeighbours(number, names[number], mine)

    def _search(
        self, admitted: Finder, ids: NDArray[np.int64], rows: NDArray[np.float32]
    ) -> list[Nearest]:
        """Return the nearest others of some images."""
        contents = self.images.contents if self.distinct else None
        return nearest_others(admitted, ids, rows, self.k, contents).nearest


def in_portions(
    blocks: Iterable[Block],
    search: Callable[[NDArray[np.int64], NDArray[np.float32]], list[Nearest]],
    searched: int = SEARCHED,
    matched: int = MATCHED,
) -> Iterator[tuple[NDArray[np.int64], list[Nearest]]]:
    """Yield ids of some images, and what ``search`` finds for each.

    See :class:`NeighbourLists` for how many these are.
    """
    most = min(_AT_FIRST, searched)
    for ids, rows in blocks:
        stop = 0
        while stop < len(ids):
            part = slice(stop, stop + most)
            stop = part.stop
            found = search(ids[part], rows[part])
            mean = sum(len(ids) for ids, _ in found) / len(found)
            most = max(1, min(searched, int(matched / max(1, mean))))
            yield ids[part], found


def nearest_others(
    gallery: Finder,
    ids: NDArray[np.int64],
    rows: NDArray[np.float32],
    k: int | None,
    contents: Contents | None = None,
) -> Answer:
    """Return the ``k`` nearest (None: all) of stored images, given by id and embedding, but those.

    An image is left out of its own list only; with ``contents``, its copies are too, and of copies
    of another the first one counts.
    """
    known = contents(ids.tolist()) if contents else {}
    own = [Own(frozenset({number}), known.get(number)) for number in ids.tolist()]
    return nearest_but(gallery, rows, k, own, contents)


def paths_of(images: ImageFacts, ids: Iterable[int]) -> dict[int, str]:
    """Return the paths of images, or raise CollectionDamaged for ids that none has."""
    wanted = sorted(set(ids))
    paths = images.paths(wanted)
    for number in wanted:
        if number not in paths:
            raise CollectionDamaged(images.path, f"an image of the id {number}", "none")
    return paths


def matches(images: ImageFacts, found: Sequence[Nearest]) -> list[tuple[Match, ...]]:
    """Return the matches of each result, with ranks and paths."""
    paths = paths_of(images, chain.from_iterable(ids.tolist() for ids, _ in found))
    return [
        tuple(
            Match(rank, image_id, paths[image_id], distance)
            for rank, (image_id, distance) in enumerate(
                zip(ids.tolist(), distances.tolist(), strict=True), start=1
            )
        )
        for ids, distances in found
    ]
