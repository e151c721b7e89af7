"""Move image files into a folder, and back."""

import os
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from imgsim.curation.manifest import BACK, Entry, Manifest, State
from imgsim.curation.placing import (
    has_content,
    is_writable,
    place,
    remove_empty,
    remove_unfinished,
    require_same,
)
from imgsim.directory import is_collection
from imgsim.errors import ImageError, ImageNotFound, OutputError
from imgsim.images.roots import Roots
from imgsim.images.roots import State as FolderState


def require_folder(folder: str) -> None:
    """Raise :class:`OutputError` unless files can be moved into ``folder``, there or not yet."""
    above = os.path.dirname(folder)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise OutputError(f"{folder}: is not a folder")
    if not os.path.isdir(above):
        raise OutputError(f"{folder}: the folder that it should be in is not there")
    if not is_writable(folder if os.path.isdir(folder) else above):
        raise OutputError(f"{folder}: cannot be written to")
    real = Path(os.path.realpath(folder))
    for each in (real, *real.parents):
        if is_collection(each):
            raise OutputError(f"{folder}: lies in the collection {each}")


class Targets:
    """Where files go in a folder: they keep what their paths have below a folder of them all.

    That is the innermost folder that all ingested ones are in, so there is one place for each path
    in every run.
    """

    def __init__(self, folder: str, roots: Sequence[str], paths: Iterable[str]) -> None:
        """Prepare for files at ``paths``, which may be outside of the ``roots`` of the ingest."""
        known = Roots(roots)
        self._folder = folder
        self._base = os.path.commonpath([*roots, *{known.of(path) for path in paths}] or ["/"])

    def of(self, path: str) -> str:
        """Return a free name, which is the file's own unless there is something."""
        own = os.path.join(self._folder, path[len(self._base) :].lstrip("/"))
        stem, suffix = os.path.splitext(own)
        names = chain([own], (f"{stem}-{number}{suffix}" for number in count(2)))
        return next(name for name in names if not os.path.lexists(name))


def move(manifest: Manifest, entry: Entry, seen: os.stat_result) -> None:
    """Move a file that was seen a moment ago; raise OSError or ImageError if it stays."""
    require_same(entry.path, seen)
    making = manifest.in_the_making(entry, entry.target)
    place(entry.path, entry.target, making, entry.mtime_ns, entry.sha256)


def is_back(entry: Entry) -> bool:
    """Say whether a file that was moved is where it was, by whatever way."""
    at_home = has_content(entry.path, entry.size, entry.sha256)
    return at_home and (entry.state in BACK or not os.path.lexists(entry.target))


def require_movable(entry: Entry, roots: Roots) -> None:
    """Raise :class:`ImageError` if a file that was moved cannot be brought back as it was."""
    path, target = entry.path, entry.target
    if os.path.lexists(path):
        raise ImageError(path, f"there is another file; this one is at {target}")
    if not os.path.lexists(target):
        raise ImageNotFound(path, f"is not at {target} any more")
    if not has_content(target, entry.size, entry.sha256):
        raise ImageError(path, f"was changed at {target} since")
    folder, root = os.path.dirname(path), roots.of(path)
    if not os.path.isdir(folder) and roots.state(root) is not FolderState.filled:
        away = f"{root} is missing or empty; if its drive is plugged in, make {folder}"
        raise ImageError(path, away)


def bring_back(manifest: Manifest, entry: Entry) -> None:
    """Move a file back to where it was; raise OSError or :class:`ImageError` if it stays away."""
    making = manifest.in_the_making(entry, entry.path)
    place(entry.target, entry.path, making, entry.mtime_ns, entry.sha256)
    _tidy(manifest, entry)


def settled(manifest: Manifest, entry: Entry) -> State:
    """Bring a move that was cut short to an end, and return the file's state.

    Where it is at both places, it is whole at its own, and what the move has made at the other
    goes. Raises OSError or :class:`ImageError` if that cannot be seen or done.
    """
    path, target = entry.path, entry.target
    remove_unfinished(*(manifest.in_the_making(entry, each) for each in (path, target)))
    if has_content(target, entry.size, entry.sha256):
        if not has_content(path, entry.size, entry.sha256):
            return "moved"
        os.unlink(target)
    if os.path.lexists(path):
        _tidy(manifest, entry)
        return BACK[entry.state]
    return "moved" if os.path.lexists(target) else "gone"


def _tidy(manifest: Manifest, entry: Entry) -> None:
    remove_empty(os.path.dirname(entry.target), str(manifest.path.parent))
