"""Pairs of images that somebody said are no duplicates."""

from collections.abc import Sequence

from imgsim.catalog.judgements import judged
from imgsim.catalog.snapshot import Snapshot
from imgsim.errors import ImageNotFound
from imgsim.files import absolute
from imgsim.findings import JudgedPair


def contents_of(snapshot: Snapshot, paths: Sequence[str]) -> list[bytes]:
    """Return the hashes of stored images, or raise :class:`ImageNotFound` for one that is none."""
    found = []
    for path in paths:
        number = snapshot.id_at(absolute(path))
        if number is None:
            raise ImageNotFound(path, "no image is stored under this path")
        found.append(snapshot.contents([number])[number])
    return found


def judged_pairs(snapshot: Snapshot) -> list[JudgedPair]:
    """Return the pairs, in the order of contents, with the paths of images that have them."""
    pairs = sorted(judged(snapshot.connection))
    paths = {
        content: tuple(sorted(image.path for image in snapshot.with_content(content)))
        for pair in pairs
        for content in pair
    }
    return [
        JudgedPair(first.hex(), second.hex(), paths[first], paths[second])
        for first, second in pairs
    ]
