"""Keep a collection in order: prune, remove, relocate, compact."""

import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from imgsim.catalog import Catalog
from imgsim.errors import StoreError
from imgsim.files import is_gone
from imgsim.snapshot import Snapshot
from imgsim.store import VectorStore
from imgsim.types import CompactReport, UpkeepReport

Choice = Callable[[Sequence[int], Sequence[int]], list[slice]]
"""Chooses runs of segments to merge from the rows and the images that each has."""


def prune(catalog: Catalog, *, dry_run: bool) -> UpkeepReport:
    """Forget the files that are gone, unless the whole folder that was ingested is.

    That is what a drive that is not plugged in looks like: its folder is missing, or empty.
    """
    with catalog.snapshot() as snapshot:
        images, refused = snapshot.images_under("/"), snapshot.refused_under("/")
        roots = snapshot.roots()
    gone = [path for path in (*images, *refused) if is_gone(path)]
    owners = _roots(gone, roots)
    missing = {root for root in set(owners.values()) if _is_missing(root)}
    gone = [path for path in gone if owners[path] not in missing]
    report = UpkeepReport(
        sum(path in images for path in gone),
        sum(path in refused for path in gone),
        tuple(sorted(set(gone))),
        tuple(sorted(missing)),
    )
    if not dry_run:
        catalog.forget([images[path] for path in gone if path in images], gone, ())
    return report


def remove(catalog: Catalog, places: Iterable[str], *, dry_run: bool) -> UpkeepReport:
    """Forget what is stored at and below each of ``places``, whether files are there or not."""
    images: dict[str, int] = {}
    refused: dict[str, str] = {}
    roots, unknown = [], []
    with catalog.snapshot() as snapshot:
        for place in places:
            below = snapshot.images_under(place), snapshot.refused_under(place)
            images |= below[0]
            refused |= below[1]
            within = [root for root in snapshot.roots() if _is_under(root, place)]
            roots += within
            if not any((*below, within)):
                unknown.append(place)
    if not dry_run:
        catalog.forget(list(images.values()), list(refused), roots)
    return UpkeepReport(len(images), len(refused), tuple(unknown))


def relocate(catalog: Catalog, old: str, new: str, *, dry_run: bool) -> UpkeepReport:
    """Note that what was at and below ``old`` is at ``new`` now; the files are not looked into.

    Raises :class:`StoreError` if something is stored under both, which could not be told apart.
    """
    old, new = os.path.abspath(old), os.path.abspath(new)
    with catalog.snapshot() as snapshot:
        images, refused = snapshot.images_under(old), snapshot.refused_under(old)
        targets = [new + path[len(old) :] for path in images]
        _refuse_conflicts(snapshot, targets, images)
    if not dry_run:
        catalog.relocate(old, new)
    absent = (path for path in targets if is_gone(path))
    return UpkeepReport(len(images), len(refused), tuple(absent))


def compact(catalog: Catalog, store: VectorStore, choose: Choice) -> CompactReport:
    """Merge the runs of segments that ``choose`` names, one commit each."""
    with catalog.snapshot() as snapshot:
        segments = snapshot.segments()
        parts = [(segment, snapshot.segment_ids(segment)) for segment in segments]
    rows = [segment.rows for segment in segments]
    live = [int((ids >= 0).sum()) for _, ids in parts]
    merged = dropped = 0
    for run in choose(rows, live):
        new = store.merge(parts[run])
        ids = np.concatenate([ids for _, ids in parts[run]])
        names = [segment.name for segment in segments[run]]
        catalog.commit_merge(names, new, ids[ids >= 0].tolist())
        merged += len(names) - (new is not None)
        dropped += sum(rows[run]) - sum(live[run])
    return CompactReport(len(segments), len(segments) - merged, dropped)


def _refuse_conflicts(snapshot: Snapshot, targets: Iterable[str], moving: Iterable[str]) -> None:
    stored = snapshot.stamps(list(targets)).keys() - set(moving)
    if stored:
        raise StoreError(
            f"{min(stored)}: is stored already, as {len(stored):,} of the images at the new place; "
            "forget one side with `imgsim remove` first"
        )


def _is_under(path: str, place: str) -> bool:
    place = os.path.abspath(place)
    return os.path.commonpath([path, place]) == place


def _roots(paths: Iterable[str], roots: Iterable[str]) -> dict[str, str]:
    """Return the innermost root of each path; its folder if it is in none."""
    known = set(roots)
    found = {}
    for path in paths:
        parents = _parents(path)
        found[path] = next((parent for parent in parents if parent in known), parents[0])
    return found


def _parents(path: str) -> list[str]:
    """Return the folders that a path is in, the innermost first."""
    parents = []
    while (parent := os.path.dirname(path)) != path:
        parents.append(parent)
        path = parent
    return parents


def _is_missing(folder: str) -> bool:
    """Say whether there is no such folder, or nothing in it."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True
