"""Forget images, or note that they are elsewhere: prune, remove, relocate."""

import os
from collections.abc import Iterable

from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.errors import ImageNotFound, StoreError
from imgsim.files import absolute
from imgsim.images.roots import Roots, is_gone
from imgsim.results import UpkeepReport


def prune(directory: Directory, *, dry_run: bool) -> UpkeepReport:
    """Forget the files that are gone, unless the whole folder that was ingested is.

    That is what a drive that is not plugged in looks like: its folder is missing, or empty.
    """
    with directory.catalog.snapshot() as snapshot:
        roots = Roots(snapshot.roots())
        images = {path: n for path, n in snapshot.images_under("/") if is_gone(path)}
        refused = {path for path in snapshot.refused_under("/") if is_gone(path)}
    away = {path for path in (*images, *refused) if roots.are_away(path)}
    images = {path: n for path, n in images.items() if path not in away}
    refused -= away
    if not dry_run:
        directory.catalog.forget(list(images.values()), list(refused), ())
    missing = {roots.of(path) for path in away}
    paths = images.keys() | refused
    return UpkeepReport(len(images), len(refused), tuple(sorted(paths)), tuple(sorted(missing)))


def remove(directory: Directory, places: Iterable[str], *, dry_run: bool) -> UpkeepReport:
    """Forget what is stored at and below each of ``places``, whether files are there or not."""
    images: set[int] = set()
    refused: set[str] = set()
    roots, unknown = [], []
    with directory.catalog.snapshot() as snapshot:
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
        directory.catalog.forget(list(images), list(refused), roots)
    return UpkeepReport(len(images), len(refused), tuple(unknown))


def relocate(
    directory: Directory, old: str, new: str, *, dry_run: bool, force: bool
) -> UpkeepReport:
    """Note that what was at and below ``old`` is at ``new`` now; the files are not looked into.

    Raises :class:`StoreError` if an image is stored under both, which could not be told apart, and
    without ``force`` :class:`ImageNotFound` if most of the files are not there.
    """
    old, new = absolute(old), absolute(new)
    if "/" in {old, new}:
        raise ValueError("everything cannot be relocated: name folders below /")
    with directory.catalog.snapshot() as snapshot:
        refused = len(snapshot.refused_under(old))
        count = 0
        absent = []
        for path, _ in snapshot.images_under(old):
            count += 1
            target = new + path[len(old) :]
            if is_gone(target):
                absent.append(target)
        _refuse_conflicts(snapshot, old, new)
    if 2 * len(absent) > count and not force:
        raise ImageNotFound(
            new,
            f"{len(absent):,} of {count:,} images are not there, first {absent[0]}; "
            "`--force` notes it all the same",
        )
    if not dry_run and count + refused:
        directory.catalog.relocate(old, new)
    return UpkeepReport(count, refused, tuple(absent))


def _refuse_conflicts(snapshot: Snapshot, old: str, new: str) -> None:
    conflicts = snapshot.conflicts(old, new)
    if conflicts:
        raise StoreError(
            f"{conflicts[0]}: is stored already, as {len(conflicts):,} of the images at the new "
            "place; forget one side with `imgsim remove` first"
        )
