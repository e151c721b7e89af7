"""Replace exact copies of image files by hard links, and make them files of their own again."""

import os
from pathlib import Path

from imgsim.curation.checks import Pair
from imgsim.curation.manifest import Entry, Manifest, State
from imgsim.curation.placing import (
    copy_whole,
    has_content,
    remove_unfinished,
    rename_new,
    require_same,
)
from imgsim.errors import ImageError, ImageNotFound
from imgsim.files import sync_directory

_NOT_ALIKE = "its owner, permissions or extended attributes are not those of"


def require_copy(pair: Pair, facts: os.stat_result) -> None:
    """Raise :class:`ImageError` unless one file can stand for both.

    It needs the same content, and all that the system knows of it but the times.
    """
    path, kept = pair.image.path, pair.kept.path
    if pair.image.sha256 != pair.kept.sha256:
        raise ImageError(path, f"is no exact copy of {kept}")
    others = os.stat(kept)
    if facts.st_dev != others.st_dev:
        raise ImageError(path, f"is on another drive than {kept}")
    if _owned(path, facts) != _owned(kept, others):
        raise ImageError(path, f"{_NOT_ALIKE} {kept}")


def link(manifest: Manifest, entry: Entry, seen: os.stat_result) -> None:
    """Replace a file that was seen a moment ago; raise OSError or ImageError if it stays."""
    making = manifest.in_the_making(entry, entry.path)
    try:
        os.link(os.path.realpath(entry.kept), making)
        require_same(entry.path, seen)
        os.replace(making, entry.path)
        sync_directory(Path(entry.path).parent)
    finally:
        remove_unfinished(making)


def require_separable(entry: Entry) -> None:
    """Raise :class:`ImageError` if a file that was linked cannot be made one of its own again."""
    _source(entry)


def separate(manifest: Manifest, entry: Entry) -> None:
    """Make a linked file one of its own, with its own time; raise OSError or ImageError if not."""
    making, source = manifest.in_the_making(entry, entry.path), _source(entry)
    try:
        seen = os.stat(source)
        copy_whole(source, making, entry.mtime_ns, entry.sha256)
        if source == entry.path:
            require_same(source, seen)
            os.replace(making, entry.path)
        else:
            rename_new(making, entry.path)
        sync_directory(Path(entry.path).parent)
    finally:
        remove_unfinished(making)


def is_back(entry: Entry) -> bool:
    """Say whether a file that was linked is one of its own already."""
    alone = os.path.lexists(entry.path) and os.lstat(entry.path).st_nlink == 1
    return alone and has_content(entry.path, entry.size, entry.sha256)


def settled(manifest: Manifest, entry: Entry) -> State:
    """Bring a replacement that was cut short to an end, and return the file's state."""
    remove_unfinished(manifest.in_the_making(entry, entry.path))
    if not os.path.lexists(entry.path):
        return "gone"
    facts = os.lstat(entry.path)
    if entry.state == "restoring":  # the one that was kept may have another name by now
        return "linked" if facts.st_nlink > 1 else "restored"
    is_linked = os.path.exists(entry.kept) and os.path.samestat(facts, os.stat(entry.kept))
    return "linked" if is_linked else "left"


def _source(entry: Entry) -> str:
    """Return which file has the content: the linked one, or the one kept if that is missing."""
    path = entry.path
    if os.path.lexists(path):
        if has_content(path, entry.size, entry.sha256):
            return path
        raise ImageError(path, "was changed since")
    kept = os.path.realpath(entry.kept)
    if has_content(kept, entry.size, entry.sha256):
        return kept
    raise ImageNotFound(path, f"is not there any more, nor is {entry.kept} what it was")


def _owned(path: str, facts: os.stat_result) -> tuple[object, ...]:
    named = os.listxattr(path) if hasattr(os, "listxattr") else ()
    attributes = {name: os.getxattr(path, name) for name in named}
    return facts.st_uid, facts.st_gid, facts.st_mode, attributes
