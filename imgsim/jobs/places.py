"""Put images into the rows that are theirs.

Of the row of an image the catalog has no checksum, and the table beside the embeddings has: where
the two differ, and the checksum is right, the table is.
"""

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog import damage
from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.errors import CollectionDamaged
from imgsim.index.vector_store import UNCERTAIN, VectorStore
from imgsim.records import Segment


def put_images(directory: Directory) -> dict[int, str]:
    """Put images that are in no row, or in that of another, into their own.

    Forget those for which there is none, or that are altered; return their ids and paths.
    """
    store = directory.store
    with directory.catalog.snapshot() as snapshot:
        lost, segments = damage.altered(snapshot), snapshot.segments()
        wrong = damage.dangling(snapshot)
        for segment in segments:
            wrong |= damage.shown_paths(snapshot, _misplaced(snapshot, store, segment))
    places = dict[int, tuple[str, int]]()
    for segment in segments if wrong else ():
        noted = _noted(store, segment)
        rows = np.flatnonzero(np.isin(noted, list(wrong)))
        places |= {int(noted[row]): (segment.name, int(row)) for row in rows}
    lost |= {number: path for number, path in wrong.items() if number not in places}
    places = {number: place for number, place in places.items() if number not in lost}
    directory.catalog.settle(list(lost), places)
    return lost


def forget_misplaced(directory: Directory) -> None:
    """Forget embeddings, by encoders that are not active, of other images than the catalog says."""
    with directory.catalog.snapshot() as snapshot:
        staged = [
            (number, segment.name)
            for segment in snapshot.spare_segments()
            for number in _misplaced(snapshot, directory.store, segment)
        ]
    directory.catalog.settle(staged=staged)


def _misplaced(snapshot: Snapshot, store: VectorStore, segment: Segment) -> list[int]:
    """Return the images that the catalog has in rows of a segment that are those of others."""
    ids, noted = snapshot.segment_ids(segment), _noted(store, segment)
    found: list[int] = ids[(noted > UNCERTAIN) & (ids >= 0) & (noted != ids)].tolist()
    return found


def _noted(store: VectorStore, segment: Segment) -> NDArray[np.int64]:
    """Return whose the rows of a segment are, as far as that is certain."""
    try:
        return store.noted_ids(segment)
    except CollectionDamaged:
        return np.full(segment.rows, UNCERTAIN, np.int64)
