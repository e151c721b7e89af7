"""Which contents of a collection are near each other, and look the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot
from imgsim.curation.linkage import NO_LINKS, Links, concatenated, once_each
from imgsim.curation.nodes import Nodes, as_links, candidates, stand
from imgsim.curation.poses import UPRIGHT, Pose, embed_poses, posed
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.images.likeness import ALIKE, Looks, grey_square, likeness
from imgsim.index.distance import Block
from imgsim.index.gallery import Searchable
from imgsim.parallel import in_threads
from imgsim.records import ImageRecord
from imgsim.results import Progress

_AT_ONCE = 512  # images that are decoded, and then searched for


@dataclass(frozen=True)
class PairSearch:
    """Finds the pairs of nodes within the radius of ``gallery`` that look the same in some poses.

    With ``by_distance`` alone, what they look like does not count.
    """

    snapshot: Snapshot
    gallery: Searchable
    nodes: Nodes
    encoder: Encoder
    poses: Sequence[Pose]
    by_distance: bool
    on_progress: Progress | None

    def links(self) -> Links:
        """Return the pairs."""
        found = {UPRIGHT: self._upright()}
        for pose in self.poses[1:]:
            found[pose] = NO_LINKS
        if len(self.poses) > 1:
            found |= self._posed()
        if not self.by_distance:
            found = self._alike(found)
        ordered = (_ordered(links, posed=pose != UPRIGHT) for pose, links in found.items())
        return once_each(concatenated(ordered))

    def _upright(self) -> Links:
        def own() -> Iterator[Block]:
            for ids, rows in self.gallery.blocks():
                chosen = stand(self.nodes, ids)
                yield ids[chosen], rows[chosen]

        parts = [
            as_links(ours[once], theirs[once], far[once])
            for ours, theirs, far in candidates(self.gallery, self.nodes, own())
            for once in (ours < theirs,)
        ]
        return concatenated(parts)

    def _posed(self) -> dict[Pose, Links]:
        """Return for each pose the pairs of which the first node was in it."""
        turned = self.poses[1:]
        parts: dict[Pose, list[Links]] = {pose: [] for pose in turned}
        firsts, done = self.nodes.firsts.tolist(), 0
        for start in range(0, len(firsts), _AT_ONCE):
            numbers = firsts[start : start + _AT_ONCE]
            records = self.snapshot.records(numbers)
            ids, rows = [], []
            work = partial(_embedded, poses=turned, encoder=self.encoder)
            items = [records[number] for number in numbers]
            for number, result in zip(numbers, in_threads(work, items), strict=True):
                done += 1
                if self.on_progress is not None:
                    self.on_progress(done, len(firsts))
                if not isinstance(result, ImageError):
                    ids.append(number)
                    rows.append(result)
            for place, pose in enumerate(turned):
                block = np.array(ids, np.int64), np.array([each[place] for each in rows])
                if ids:
                    found = candidates(self.gallery, self.nodes, [block])
                    parts[pose] += [as_links(*each) for each in found]
        return {pose: concatenated(each) for pose, each in parts.items()}

    def _alike(self, found: Mapping[Pose, Links]) -> dict[Pose, Links]:
        """Return the pairs that look the same."""
        wanted = np.unique(
            np.concatenate([part for each in found.values() for part in (each.first, each.second)])
        )
        firsts = self.nodes.firsts[wanted]
        records = self.snapshot.records(firsts.tolist())
        items = [records[number].path for number in firsts.tolist()]
        read, squares = squares_of(items, self.on_progress)
        known, looks, chosen = wanted[read], Looks.of(squares), {}
        for pose, links in found.items():
            seen = links.only(np.isin(links.first, known) & np.isin(links.second, known))
            mine, yours = (np.searchsorted(known, each) for each in (seen.first, seen.second))
            rows, places = np.unique(mine, return_inverse=True)
            ours = Looks.of([posed(squares[row], pose) for row in rows.tolist()])
            chosen[pose] = seen.only(likeness(ours, places, looks, yours) >= ALIKE)
        return chosen


def _embedded(record: ImageRecord, poses: Sequence[Pose], encoder: Encoder) -> NDArray[np.float32]:
    return embed_poses(record.path, poses, encoder, content=record.sha256)[1]


def squares_of(
    paths: Sequence[str], on_progress: Progress | None
) -> tuple[list[int], list[NDArray[np.uint8]]]:
    """Return the places in a list of the images that can be read, and their brightness."""
    read, squares = [], []
    for place, result in enumerate(in_threads(grey_square, paths)):
        if on_progress is not None:
            on_progress(place + 1, len(paths))
        if not isinstance(result, ImageError):
            read.append(place)
            squares.append(result)
    return read, squares


def _ordered(links: Links, *, posed: bool) -> Links:
    """Return links with the lesser node first."""
    first, second = np.minimum(links.first, links.second), np.maximum(links.first, links.second)
    return Links(first, second, links.distances, np.full(len(links), posed))
