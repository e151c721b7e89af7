"""Lists of neighbours, from what a search found to what a user gets."""

from collections.abc import Iterator, Sequence

from imgsim.exact import Nearest
from imgsim.snapshot import Snapshot
from imgsim.store import Gallery
from imgsim.types import ImageNeighbours, Match, Progress

_SEARCHED_AT_ONCE = 1_024
_MATCHED_AT_ONCE = 200_000  # of a hundred bytes and more each
_AT_FIRST = 16  # when nobody knows how many matches there are


def all_neighbours(
    snapshot: Snapshot, gallery: Gallery, admitted: Gallery, k: int | None
) -> Iterator[ImageNeighbours]:
    """Yield for each image of ``gallery`` its ``k`` nearest others (None: all) of ``admitted``."""
    most = _AT_FIRST
    for ids, rows in gallery.blocks():
        names = snapshot.paths(ids.tolist())
        stop = 0
        while stop < len(ids):
            part = slice(stop, stop + most)
            stop = part.stop
            found = admitted.search(rows[part], None if k is None else k + 1)
            matched = sum(len(ids) for ids, _ in found) / len(found)
            most = max(1, min(_SEARCHED_AT_ONCE, int(_MATCHED_AT_ONCE / max(1, matched))))
            others = [
                _without(image_id, nearest, k)
                for image_id, nearest in zip(ids[part].tolist(), found, strict=True)
            ]
            found_of_each = matches(snapshot, others)
            for image_id, mine in zip(ids[part].tolist(), found_of_each, strict=True):
                yield ImageNeighbours(image_id, names[image_id], mine)


def _without(image_id: int, nearest: Nearest, k: int | None) -> Nearest:
    """Return the first ``k`` of ``nearest`` that are not the image itself."""
    ids, distances = nearest
    others = ids != image_id
    return ids[others][:k], distances[others][:k]


def matches(snapshot: Snapshot, found: Sequence[Nearest]) -> list[tuple[Match, ...]]:
    """Return the matches of each result, with ranks and paths."""
    paths = snapshot.paths(sorted({i for ids, _ in found for i in ids.tolist()}))
    return [
        tuple(
            Match(rank, image_id, paths[image_id], distance)
            for rank, (image_id, distance) in enumerate(
                zip(ids.tolist(), distances.tolist(), strict=True), start=1
            )
        )
        for ids, distances in found
    ]


def reported(
    lists: Iterator[ImageNeighbours], total: int, on_progress: Progress | None
) -> Iterator[ImageNeighbours]:
    """Yield the lists, and report how many of ``total`` have been taken."""
    for done, item in enumerate(lists, start=1):
        yield item
        if on_progress is not None:
            on_progress(done, total)
