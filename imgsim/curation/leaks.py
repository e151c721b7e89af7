"""Which images of one folder have a duplicate in another, as those for tests in those to train."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot
from imgsim.curation.pairs import squares_of
from imgsim.curation.poses import UPRIGHT, Pose, embed_poses, posed, poses
from imgsim.curation_options import DuplicateSettings
from imgsim.directory import Directory
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError, ImageNotFound
from imgsim.files import absolute
from imgsim.findings import Leak, LeakReport, MemberKind
from imgsim.images.decode import sorted_out
from imgsim.images.likeness import ALIKE, Looks, likeness
from imgsim.images.scan import find
from imgsim.index.gallery import Searchable
from imgsim.options import DECODE_RULES, listed
from imgsim.parallel import in_threads
from imgsim.records import ImageFile, ImageRecord
from imgsim.results import Progress

_AT_ONCE = 512  # images of which embeddings and candidates are in memory


@dataclass(frozen=True)
class _Query:
    """An image that may have leaked: the hash of its content, and embeddings (poses, dim)."""

    path: str
    content: bytes
    rows: NDArray[np.float32]


def find_leaks(
    directory: Directory,
    source: str,
    target: str,
    settings: DuplicateSettings,
    radius: float,
    on_progress: Progress | None = None,
) -> LeakReport:
    """Return the images at and under ``target`` that have a duplicate at or under ``source``.

    Those of the source must be stored; those of the target need not be, and are left out of the
    source where they are in it. Raises :class:`ImageNotFound` if images of the source are not
    stored, or there are none in one of the two, and ValueError if the source is in the target.
    """
    source, target = absolute(source), absolute(target)
    if f"{source}/".startswith(f"{target}/"):
        raise ValueError(f"{source}: is in {target}; the images of one of two folders are needed")
    outside = (*listed(settings.within.not_under), target)
    within = replace(settings.within, radius=radius, under=source, not_under=outside)
    turned = poses(mirror=settings.mirror, rotate=settings.rotate)
    with directory.reading() as snapshot, directory.gallery(snapshot, within) as gallery:
        _refuse_unstored(directory, snapshot, source, target)
        if not len(gallery):
            raise ImageNotFound(source, "no image is stored there; `imgsim ingest` stores them")
        found = list(find([target], collection=str(directory.path)))
        paths, refused = sorted_out(found)
        if not paths:
            raise ImageNotFound(target, "there are no images")
        encoder = directory.load_encoder(snapshot.encoder())
        files = {each.path: each for each in found if isinstance(each, ImageFile)}
        stored = dict(snapshot.images_under(target)) if turned == [UPRIGHT] else {}
        search = _LeakSearch(directory, snapshot, gallery, encoder, turned, settings.by_distance)
        leaks, failed = list[Leak](), [each.path for each in refused]
        for start in range(0, len(paths), _AT_ONCE):
            some = [files[path] for path in paths[start : start + _AT_ONCE]]
            queries, missed = search.queries(some, stored)
            leaks += search.leaks(queries)
            failed += missed
            if on_progress is not None:
                on_progress(start + len(some), len(paths))
    leaks.sort(key=lambda leak: os.fsencode(leak.path))
    return LeakReport(tuple(leaks), len(paths), radius, tuple(sorted(failed)))


def _refuse_unstored(directory: Directory, snapshot: Snapshot, source: str, target: str) -> None:
    """Raise :class:`ImageNotFound` if there are images at the source that are not stored."""
    files = {
        each.path: (each.size, each.mtime_ns)
        for each in find([source], collection=str(directory.path))
        if isinstance(each, ImageFile) and not f"{each.path}/".startswith(f"{target}/")
    }
    known = snapshot.stamps([*files]) | {
        path: facts[:2] for path, facts in snapshot.refusals([*files]).items()
    }
    strange = [path for path, stamp in files.items() if known.get(path) != stamp]
    real = {os.path.realpath(path) for path in known}
    unknown = [path for path in strange if os.path.realpath(path) not in real - {*strange}]
    claims = (ImageFile(path, *files[path], claimed=False) for path in unknown)
    unstored, _ = sorted_out(claims)
    if unstored:
        raise ImageNotFound(
            source,
            f"{len(unstored):,} images there are not stored as they are, first {unstored[0]}; "
            "`imgsim ingest` stores them",
        )


@dataclass(frozen=True)
class _LeakSearch:
    directory: Directory
    snapshot: Snapshot
    gallery: Searchable
    encoder: Encoder
    poses: Sequence[Pose]
    by_distance: bool

    def queries(
        self, files: Sequence[ImageFile], stored: dict[str, int]
    ) -> tuple[list[_Query], list[str]]:
        """Return images with their embeddings, stored or new, and the paths of unreadable ones."""
        found, failed = [], []
        stamps = {file.path: (file.size, file.mtime_ns) for file in files if file.path in stored}
        records = self.snapshot.records([stored[path] for path in stamps])
        fresh = {
            record.path: (number, record)
            for number, record in records.items()
            if stamps[record.path] == (record.size, record.mtime_ns)
        }
        found += self._stored([*fresh.values()])
        others = [file.path for file in files if file.path not in fresh]
        rules = DECODE_RULES  # nobody has accepted what is damaged in them
        work = partial(embed_poses, chosen=self.poses, encoder=self.encoder, rules=rules)
        for path, result in zip(others, in_threads(work, others), strict=True):
            if isinstance(result, ImageError):
                failed.append(path)
            else:
                found.append(_Query(path, *result))
        return found, failed

    def _stored(self, images: Sequence[tuple[int, ImageRecord]]) -> list[_Query]:
        if not images:
            return []
        places = self.snapshot.places([number for number, _ in images])
        chosen = [places[number] for number, _ in images]
        rows = self.directory.store.embeddings(chosen, self.snapshot.segment_ids)
        return [
            _Query(record.path, record.sha256, row[np.newaxis])
            for (_, record), row in zip(images, rows, strict=True)
        ]

    def leaks(self, queries: Sequence[_Query]) -> list[Leak]:
        """Return those of some images that have a duplicate, with the nearest one of each."""
        rows = np.concatenate([query.rows for query in queries]) if queries else None
        if rows is None:
            return []
        nearest = self.gallery.search(rows, None).nearest
        owners = np.repeat(np.arange(len(nearest)), [len(ids) for ids, _ in nearest])
        ids, far = (np.concatenate(column) for column in zip(*nearest, strict=True))
        images, turned = np.divmod(owners, len(self.poses))
        numbers, places = np.unique(ids, return_inverse=True)
        records = self.snapshot.records(numbers.tolist())
        sources = [records[number] for number in numbers.tolist()]
        same = np.array(
            [
                queries[image].content == sources[place].sha256
                for image, place in zip(images.tolist(), places.tolist(), strict=True)
            ],
            bool,
        )
        counts = same | self._alike(queries, sources, images, turned, places)
        best: dict[int, tuple[bool, float, bytes, Leak]] = {}
        for at in np.flatnonzero(counts).tolist():
            image, source = int(images[at]), sources[int(places[at])].path
            kind: MemberKind = "exact" if same[at] else "posed" if turned[at] else "near"
            leak = Leak(queries[image].path, source, kind, float(far[at]))
            ranked = not same[at], leak.distance, os.fsencode(source), leak
            if image not in best or ranked[:3] < best[image][:3]:
                best[image] = ranked
        return [leak for *_, leak in best.values()]

    def _alike(
        self,
        queries: Sequence[_Query],
        sources: Sequence[ImageRecord],
        images: NDArray[np.int64],
        turned: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Say which pairs of images, by their places in lists, look the same in a pose."""
        if self.by_distance:
            return np.ones(len(images), bool)
        asked = np.unique(images)
        ours = _squares([queries[image].path for image in asked.tolist()])
        theirs = _squares([source.path for source in sources])
        looks = Looks.of([*theirs.values()])
        rows = {place: row for row, place in enumerate(theirs)}
        alike = np.zeros(len(images), bool)
        for number, pose in enumerate(self.poses):
            in_pose = np.flatnonzero(turned == number)
            mine = np.searchsorted(asked, images[in_pose])
            seen = np.isin(mine, [*ours]) & np.isin(places[in_pose], [*theirs])
            some, mine = in_pose[seen], mine[seen]
            shown, back = np.unique(mine, return_inverse=True)
            turned_looks = Looks.of([posed(ours[place], pose) for place in shown.tolist()])
            yours = np.array([rows[place] for place in places[some].tolist()], np.int64)
            alike[some] = likeness(turned_looks, back, looks, yours) >= ALIKE
        return alike


def _squares(paths: Sequence[str]) -> dict[int, NDArray[np.uint8]]:
    """Return the brightness of the images that can be read, by their places."""
    return dict(zip(*squares_of(paths, None), strict=True))
