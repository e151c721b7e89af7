"""How near duplicates are by an encoder, learnt from the user's own pictures.

Two images are duplicates if they are within the radius, and their pixels pass
:func:`imgsim.images.likeness.likeness`. The radius is as great as it can be, so that little is
missed, but within three limits:

- It need not reach beyond 99 of 100 images that were changed: saved again, shrunk, cropped, in
  other colours, or grey.
- At most so many images may have an unrelated one that passes. Which neighbours are unrelated
  nobody knows: real duplicates are among them. But unrelated ones get rarer the more alike they
  look, so those that nearly pass tell how many do. See :data:`PASSING`.
- On average, at most 32 others are compared with an image by their pixels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.catalog.snapshot import Snapshot
from imgsim.curation.nodes import nodes_of
from imgsim.directory import Directory
from imgsim.encoder.embed import embedding_of
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError, RadiusUnknown
from imgsim.findings import LearntRadius, RadiusCurves
from imgsim.images.decode import thumbnail
from imgsim.images.frame import Frame
from imgsim.images.likeness import ALIKE, SIDE, Looks, as_grey, grey_square, likeness
from imgsim.images.source import decode_source
from imgsim.images.variants import CHANGES, changed
from imgsim.index.distance import distances
from imgsim.index.gallery import Searchable
from imgsim.jobs.neighbours import nearest_others
from imgsim.options import STORED_RULES
from imgsim.parallel import in_threads
from imgsim.records import ImageRecord
from imgsim.results import Progress

FEWEST = 100
"""From so many different pictures on a radius is learnt."""

PASSING = 1 / 40
"""At most so many unrelated images pass for each whose likeness is in LOOKALIKE.

Of 142,774 pairs of photographs within a radius, 44 were in it, and none of different scenes passed;
see benchmarks/RESULTS.md.
"""

LOOKALIKE = 0.8, 0.9
"""The likeness of an image that nearly passes."""

_CHANGED = 200  # images of which variants are made
_COMPARED = 1_000  # images whose neighbours are looked at
_NEIGHBOURS = 8  # of which pixels are compared
_COUNTED = 128  # of which distances are counted
_CANDIDATES = 32  # others that are compared with an image, on average
_REACH = 0.99  # of the changed images


@dataclass(frozen=True, eq=False)
class _Sample:
    """Images by id in the order of their contents, their records, and embeddings (n, dim)."""

    ids: NDArray[np.int64]
    records: Sequence[ImageRecord]
    rows: NDArray[np.float32]


def learn_radius(
    directory: Directory, false_alarms: float, on_progress: Progress | None = None
) -> RadiusCurves:
    """Learn the radius of the active encoder from a sample of the stored images.

    The sample is drawn by the hash of the contents, so it is that of nothing else. Raises
    :class:`RadiusUnknown` if fewer than 100 different pictures can be read.
    """
    with directory.reading() as snapshot, directory.gallery(snapshot) as gallery:
        encoder = directory.load_encoder(snapshot.encoder())
        images = snapshot.count_images()
        sample = _sample(directory, snapshot, gallery)
        done = _Counter(on_progress, _CHANGED + _COMPARED)
        same, passed = _changed_distances(sample, encoder, done)
        neighbours = _neighbours(snapshot, gallery, sample, done)
    _refuse_few(neighbours.read)
    everything = np.sort(np.concatenate([*same.values()]))
    limits = {
        "no more is needed": float(np.quantile(everything, _REACH)),
        "more would be unrelated": _within(neighbours.lookalikes, false_alarms, neighbours.read),
        "more would take long to compare": neighbours.affordable,
    }
    limit, radius = min(limits.items(), key=lambda pair: pair[1])
    passing = {kind: float(np.mean(passed[kind] & (same[kind] <= radius))) for kind in same}
    recall = float(np.mean([*passing.values()]))
    learnt = LearntRadius(radius, false_alarms, recall, neighbours.read, images, int(time.time()))
    return RadiusCurves(
        learnt,
        {kind: tuple(np.sort(each).tolist()) for kind, each in same.items()},
        passing,
        tuple(np.sort(neighbours.unrelated).tolist()),
        tuple(neighbours.lookalikes.tolist()),
        neighbours.read,
        limit,
    )


def _within(lookalikes: NDArray[np.float64], false_alarms: float, images: int) -> float:
    """Return how far one may go if so many images may have an unrelated one that passes."""
    allowed = int(false_alarms * images / PASSING)
    if allowed >= len(lookalikes):
        return float("inf")
    return float(np.nextafter(lookalikes[allowed], 0))


class _Counter:
    """Counts images for somebody who wants to know."""

    def __init__(self, on_progress: Progress | None, total: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(min(self._done, self._total), self._total)


def _refuse_few(images: int) -> None:
    if images < FEWEST:
        raise RadiusUnknown(
            f"{images:,} different pictures are too few to tell how near duplicates are; {FEWEST} "
            "are needed, or say it with --radius"
        )


def _sample(directory: Directory, snapshot: Snapshot, gallery: Searchable) -> _Sample:
    blocks = [ids for ids, _ in gallery.blocks()]
    ids = np.concatenate(blocks) if blocks else np.empty(0, np.int64)
    chosen = nodes_of(snapshot, ids, apart=False).firsts[:_COMPARED]
    _refuse_few(len(chosen))
    numbers = chosen.tolist()
    places, records = snapshot.places(numbers), snapshot.records(numbers)
    rows = directory.store.embeddings([places[number] for number in numbers], snapshot.segment_ids)
    return _Sample(chosen, [records[number] for number in numbers], rows)


def _changed_distances(
    sample: _Sample, encoder: Encoder, done: _Counter
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.bool_]]]:
    """Return by the kind of change how far images come to be, and whether their pixels pass."""
    far: dict[str, list[float]] = {kind: [] for kind in CHANGES}
    squares: dict[str, list[NDArray[np.uint8]]] = {kind: [] for kind in CHANGES}
    originals = []
    work = partial(_variants, encoder=encoder)
    for row, found in zip(
        sample.rows[:_CHANGED], in_threads(work, sample.records[:_CHANGED]), strict=True
    ):
        done()
        if isinstance(found, ImageError):
            continue
        original, variants = found
        originals.append(original)
        for kind, (embedding, square) in variants.items():
            far[kind] += distances(row, embedding[np.newaxis]).tolist()
            squares[kind].append(square)
    _refuse_few(len(originals))
    own, rows = Looks.of(originals), np.arange(len(originals))
    alike = {kind: likeness(own, rows, Looks.of(each), rows) for kind, each in squares.items()}
    return (
        {kind: np.array(each) for kind, each in far.items()},
        {kind: each >= ALIKE for kind, each in alike.items()},
    )


_Variant = tuple[NDArray[np.float32], NDArray[np.uint8]]


def _variants(
    record: ImageRecord, encoder: Encoder
) -> tuple[NDArray[np.uint8], dict[str, _Variant]]:
    """Return the brightness of an image, and of its variants embedding and brightness."""
    fed, random = encoder.preprocessing, np.random.default_rng([*record.sha256])
    side = min(max(record.width, record.height), 2 * max(fed.height, fed.width, SIDE))
    image = Image.fromarray(thumbnail(record.path, side, STORED_RULES).values)
    found = {}
    for kind in CHANGES:
        file = changed(image, kind, random)
        pixels = decode_source(file, record.path, fed.frame)
        grey = as_grey(decode_source(file, record.path, Frame(2 * SIDE, 2 * SIDE)))
        found[kind] = embedding_of(record.path, pixels, encoder), grey
    return grey_square(record.path), found


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """What is near the images of a sample, of which so many could be ``read``.

    Distances, ascending, to the nearest ``unrelated`` one, and of images that have one to the
    nearest of the ``lookalikes``; the ``affordable`` radius.
    """

    read: int
    unrelated: NDArray[np.float64]
    lookalikes: NDArray[np.float64]
    affordable: float


def _neighbours(
    snapshot: Snapshot, gallery: Searchable, sample: _Sample, done: _Counter
) -> _Neighbours:
    found = nearest_others(gallery, sample.ids, sample.rows, _COUNTED, snapshot.contents).nearest
    near = [(ids[:_NEIGHBOURS], far[:_NEIGHBOURS]) for ids, far in found]
    wanted = np.unique(np.concatenate([sample.ids, *(ids for ids, _ in near)]))
    ids, squares = _squares(snapshot.records(wanted.tolist()), set(sample.ids.tolist()), done)
    owners = np.repeat(sample.ids, [len(each) for each, _ in near])
    others, far = (np.concatenate(column) for column in zip(*near, strict=True))
    read = np.isin(owners, ids) & np.isin(others, ids)
    owners, others, far = owners[read], others[read], far[read]
    looks, rows = Looks.of(squares), (np.searchsorted(ids, each) for each in (owners, others))
    mine, yours = rows
    alike = likeness(looks, mine, looks, yours)
    almost = (alike >= LOOKALIKE[0]) & (alike < LOOKALIKE[1])
    counted = np.sort(np.concatenate([distances for _, distances in found]))
    most = _CANDIDATES * len(found)
    return _Neighbours(
        read=len(np.unique(owners)),
        unrelated=_nearest_of_each(owners, far, alike < ALIKE),
        lookalikes=_nearest_of_each(owners, far, almost),
        affordable=float(counted[most]) if most < len(counted) else float("inf"),
    )


def _nearest_of_each(
    owners: NDArray[np.int64], far: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the least of the chosen distances of each image that has one, ascending."""
    owners, far = owners[chosen], far[chosen]
    order = np.lexsort((far, owners))
    _, firsts = np.unique(owners[order], return_index=True)
    return np.sort(far[order][firsts])


def _squares(
    records: dict[int, ImageRecord], sampled: set[int], done: _Counter
) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Return ids, ascending, and brightness of the images that can be read."""
    ids, squares = [], []
    items = sorted(records.items())
    results = in_threads(grey_square, (record.path for _, record in items))
    for (number, _), result in zip(items, results, strict=True):
        if number in sampled:
            done()
        if not isinstance(result, ImageError):
            ids.append(number)
            squares.append(result)
    return np.array(ids, np.int64), squares
