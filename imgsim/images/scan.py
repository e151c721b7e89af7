"""Find image files."""

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator

from imgsim.errors import ImageError, ImageUnavailable, unavailable
from imgsim.files import absolute, mtime_ns
from imgsim.images.formats import suffixes
from imgsim.records import ImageFile


def find(
    roots: Iterable[str], exclude: str | None = None, drives: set[str] | None = None
) -> Iterator[ImageFile | ImageError]:
    """Yield the regular files at and under ``roots``, in the order of the roots and sorted in each.

    Symbolic links are followed, after all else, so that a file has its own name where it has one
    here; a file or a directory is met once however it is reached, so loops end. Hidden files and
    directories are left out unless they are roots; an empty root is nothing; ``exclude`` is a
    directory that is not entered. What cannot be looked at is yielded as an
    :class:`ImageUnavailable`. Paths are absolute; links in them are kept. ``drives`` gathers the
    directories on the way that are mount points or reached by links.
    """
    named = {absolute(root): None for root in roots if root}
    walk = _Walk(named, drives if drives is not None else set())
    if exclude is not None and os.path.isdir(exclude):
        walk.entered.add(_identity(os.stat(exclude)))
    for root in named:
        yield from walk.under(root, is_root=True)
    while walk.links:
        yield from walk.under(walk.links.popleft(), is_root=False)


class _Walk:
    """Where a search has been: ``entered`` directories, and ``links`` that are still to follow."""

    def __init__(self, named: dict[str, None], drives: set[str]) -> None:
        self.entered: set[tuple[int, int]] = set()
        self.links: deque[str] = deque()
        self._named = named
        self._drives = drives
        self._linked: set[tuple[int, int]] = set()

    def under(self, start: str, *, is_root: bool) -> Iterator[ImageFile | ImageError]:
        """Yield the files at and under a root, or a link."""
        pending: list[tuple[str, int | None]] = [(start, None)]
        while pending:
            path, device = pending.pop()
            is_start = path == start
            try:
                facts = os.stat(path)
                if stat.S_ISDIR(facts.st_mode):
                    if _identity(facts) in self.entered:
                        continue
                    self.entered.add(_identity(facts))
                    if not (is_start and is_root) and device != facts.st_dev:
                        self._drives.add(path)
                    pending += [(child, facts.st_dev) for child in self._children(path)]
                elif stat.S_ISREG(facts.st_mode):
                    if is_start and not is_root and self._has_own_name(path, facts):
                        continue
                    suffix = os.path.splitext(path)[1].lower()
                    claimed = (is_start and is_root) or suffix in suffixes()
                    yield ImageFile(path, facts.st_size, mtime_ns(facts), claimed)
                elif is_start and is_root:
                    yield ImageUnavailable(path, "not a regular file")
            except OSError as error:
                yield unavailable(path, error)
            except ValueError as error:  # a NUL character in the path
                yield ImageUnavailable(path, str(error))

    def _children(self, directory: str) -> list[str]:
        """Return the visible entries that are no roots themselves, the last first; keep links."""
        found: list[str] = []
        links: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if not (entry.name.startswith(".") or entry.path in self._named):
                    (links if entry.is_symlink() else found).append(entry.path)
        self.links.extend(sorted(links))
        return sorted(found, reverse=True)

    def _has_own_name(self, path: str, facts: os.stat_result) -> bool:
        """Say whether the file that a link leads to is met without it, or by another link."""
        real = os.path.realpath(path)
        folder = os.stat(os.path.dirname(real))
        hidden = os.path.basename(real).startswith(".")
        if not hidden and _identity(folder) in self.entered:
            return True
        met = _identity(facts) in self._linked
        self._linked.add(_identity(facts))
        return met


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino
