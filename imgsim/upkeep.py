"""Keep a collection in order: prune, remove, relocate, compact."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from imgsim.catalog import Catalog
from imgsim.errors import StoreError
from imgsim.files import absolute, sole_reader
from imgsim.presence import Roots, is_gone
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
        roots = Roots(snapshot.roots())
        images = {path: n for path, n in snapshot.images_under("/") if is_gone(path)}
        refused = {path for path in snapshot.refused_under("/") if is_gone(path)}
    away = {path for path in (*images, *refused) if roots.are_away(path)}
    images = {path: n for path, n in images.items() if path not in away}
    refused -= away
    if not dry_run:
        catalog.forget(list(images.values()), list(refused), ())
    missing = {roots.of(path) for path in away}
    paths = images.keys() | refused
    return UpkeepReport(len(images), len(refused), tuple(sorted(paths)), tuple(sorted(missing)))


def remove(catalog: Catalog, places: Iterable[str], *, dry_run: bool) -> UpkeepReport:
    """Forget what is stored at and below each of ``places``, whether files are there or not."""
    images: set[int] = set()
    refused: set[str] = set()
    roots, unknown = [], []
    with catalog.snapshot() as snapshot:
        for place in map(absolute, places):
            ids = [number for _, number in snapshot.images_under(place)]
            paths = snapshot.refused_under(place).keys()
            within = [r for r in snapshot.roots() if os.path.commonpath([r, place]) == place]
            images |= set(ids)
            refused |= paths
            roots += within
            if not (ids or paths or within):
                unknown.append(place)
    if not dry_run:
        catalog.forget(list(images), list(refused), roots)
    return UpkeepReport(len(images), len(refused), tuple(unknown))


def relocate(catalog: Catalog, old: str, new: str, *, dry_run: bool) -> UpkeepReport:
    """Note that what was at and below ``old`` is at ``new`` now; the files are not looked into.

    Raises :class:`StoreError` if an image is stored under both, which could not be told apart.
    """
    old, new = absolute(old), absolute(new)
    if "/" in {old, new}:
        raise ValueError("everything cannot be relocated: name folders below /")
    with catalog.snapshot() as snapshot:
        refused = len(snapshot.refused_under(old))
        count = 0
        absent = []
        for path, _ in snapshot.images_under(old):
            count += 1
            target = new + path[len(old) :]
            if is_gone(target):
                absent.append(target)
        _refuse_conflicts(snapshot, old, new)
    if not dry_run:
        catalog.relocate(old, new)
    return UpkeepReport(count, refused, tuple(absent))


def compact(
    catalog: Catalog, store: VectorStore, choose: Choice, *, dry_run: bool = False
) -> CompactReport:
    """Merge the runs of segments that ``choose`` names, one commit each."""
    with catalog.snapshot() as snapshot:
        segments = snapshot.segments()
        parts = [(segment, snapshot.segment_ids(segment)) for segment in segments]
    rows = [segment.rows for segment in segments]
    live = [int((ids >= 0).sum()) for _, ids in parts]
    merged = dropped = 0
    for run in choose(rows, live):
        names = [segment.name for segment in segments[run]]
        if not dry_run:
            new = store.merge(parts[run])
            ids = np.concatenate([ids for _, ids in parts[run]])
            catalog.commit_merge(names, new, ids[ids >= 0].tolist())
        merged += len(names) - any(live[run])
        dropped += sum(rows[run]) - sum(live[run])
    return CompactReport(len(segments), len(segments) - merged, dropped)


def tidy(collection: Path, catalog: Catalog, store: VectorStore, choose: Choice) -> CompactReport:
    """Merge what ``choose`` names, remove what no row names, build the bounds that are missing."""
    report = compact(catalog, store, choose)
    sweep(collection, catalog, store)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot)
    return report


def sweep(collection: Path, catalog: Catalog, store: VectorStore) -> None:
    """Remove the files that no row names, unless a reader may still need one."""
    with catalog.snapshot() as snapshot, sole_reader(collection) as alone:
        if not alone:
            return
        store.sweep(snapshot)
        named = {encoder.fingerprint for encoder in snapshot.encoders()}
    for directory in (collection / "encoders").glob("*"):
        if directory.name not in named:
            shutil.rmtree(directory, ignore_errors=True)


def _refuse_conflicts(snapshot: Snapshot, old: str, new: str) -> None:
    conflicts = snapshot.conflicts(old, new)
    if conflicts:
        raise StoreError(
            f"{conflicts[0]}: is stored already, as {len(conflicts):,} of the images at the new "
            "place; forget one side with `imgsim remove` first"
        )
