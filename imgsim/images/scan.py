"""Find image files."""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from imgsim.errors import ImageError, ImageUnavailable, unavailable
from imgsim.exclusions import Exclusions
from imgsim.files import absolute, mtime_ns
from imgsim.images.formats import suffixes
from imgsim.images.roots import parents
from imgsim.records import ImageFile

_CATALOGS = "catalog.db", "catalog.url"
"""Of these a folder that is a collection holds one, and beside it the folder ``segments``."""

COLLECTIONS = "other collections"
"""What the folders of other collections count as that were left out."""

MANIFEST = ".imgsim.jsonl"
"""What the names of manifests end in, which imgsim writes where it moves duplicates."""

MOVED_AWAY = "duplicates that were moved away"
"""What the folders with manifests count as that were left out."""


@dataclass
class Notes:
    """What a search notes on its way.

    ``drives`` are the directories that are mount points or reached by links; ``excluded`` says how
    many folders and files each pattern has left out; ``inodes`` has device and inode of the files
    that have other names, hard links, by path.
    """

    drives: set[str] = field(default_factory=set)
    excluded: Counter[str] = field(default_factory=Counter)
    inodes: dict[str, tuple[int, int]] = field(default_factory=dict)


def find(
    roots: Iterable[str],
    exclude: str | Iterable[str] = (),
    collection: str | Iterable[str] = (),
    notes: Notes | None = None,
    only: Iterable[str] | None = None,
) -> Iterator[ImageFile | ImageError]:
    """Yield the regular files at and under ``roots``, in the order of the roots and sorted in each.

    Symbolic links are followed, after all else, so that a file has its own name where it has one
    here; a file or a directory is met once however it is reached, so loops end. Left out, unless
    they are roots, are hidden files and directories, other collections, folders that duplicates
    were moved into, and what the default patterns and those in ``exclude`` say, whose paths are
    relative to a root. The latter leave out files that are roots, too; there the paths are relative
    to the working directory. An empty root is nothing; ``collection`` is a directory, or several,
    that is never entered. What cannot be looked at is yielded as an :class:`ImageUnavailable`.
    Paths are absolute; links in them are kept. ``notes`` are taken on the way. With ``only``, no
    more is looked at than leads to these absolute paths, and all that is under them.
    """
    named = {absolute(root): None for root in roots if root}
    places = None if only is None else _Places(only)
    walk = _Walk(named, Exclusions(exclude), notes or Notes(), places)
    for held in [collection] if isinstance(collection, str) else collection:
        if os.path.isdir(held):
            walk.entered.add(_identity(os.stat(held)))
    for root in named:
        if places is None or places.concern(root):
            yield from walk.under(root, root)
    while walk.links:
        yield from walk.under(*walk.links.popleft())


class _Places:
    """The paths that a search is about."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = frozenset(paths)
        self._towards = self._paths.union(*map(parents, self._paths))

    def concern(self, path: str) -> bool:
        """Say whether a path leads to one of them, or is under it."""
        return path in self._towards or not self._paths.isdisjoint(parents(path))

    def below(self, directory: str, found: list[str]) -> list[str]:
        """Return those of the entries of a directory that concern them."""
        if directory in self._paths or not self._paths.isdisjoint(parents(directory)):
            return found
        return [path for path in found if path in self._towards]


class _Walk:
    """Where a search has been: ``entered`` directories, and ``links`` that are still to follow.

    Each of these is a path and the root that it is under.
    """

    def __init__(
        self,
        named: dict[str, None],
        exclusions: Exclusions,
        notes: Notes,
        places: _Places | None = None,
    ) -> None:
        self.entered: set[tuple[int, int]] = set()
        self.links: deque[tuple[str, str]] = deque()
        self._named = named
        self._exclusions = exclusions
        self._notes = notes
        self._places = places
        self._linked: set[tuple[int, int]] = set()
        self._here = absolute(".").rstrip("/") + "/"

    def under(self, start: str, root: str) -> Iterator[ImageFile | ImageError]:
        """Yield the files at and under a root, or a link under one."""
        concern_files, inodes = self._exclusions.concern_files, self._notes.inodes
        pending: list[tuple[str, int | None]] = [(start, None)]
        while pending:
            path, device = pending.pop()
            try:
                facts = os.stat(path)
                if stat.S_ISDIR(facts.st_mode):
                    children = self._entered(path, root, facts, device)
                    pending += [(child, facts.st_dev) for child in children]
                elif stat.S_ISREG(facts.st_mode):
                    is_root = path == root
                    if concern_files and self._counts(self._pattern(path, root)):
                        continue
                    if path == start and not is_root and self._has_own_name(path, facts):
                        continue
                    if facts.st_nlink > 1:
                        inodes[path] = _identity(facts)
                    suffix = os.path.splitext(path)[1].lower()
                    claimed = is_root or suffix in suffixes()
                    yield ImageFile(path, facts.st_size, mtime_ns(facts), claimed)
                elif path == root:
                    yield ImageUnavailable(path, "not a regular file")
            except OSError as error:
                yield unavailable(path, error)
            except ValueError as error:  # a NUL character in the path
                yield ImageUnavailable(path, str(error))

    def _entered(
        self, directory: str, root: str, facts: os.stat_result, device: int | None
    ) -> list[str]:
        """Return what is to be looked at in a directory, the last first; none if it is left out."""
        is_root = directory == root
        if _identity(facts) in self.entered:
            return []
        if not is_root and self._counts(self._exclusions.of_folder(directory[_below(root) :])):
            return []
        found, links = self._children(directory)
        if not is_root and self._counts(_kind(directory, found)):
            return []
        self.entered.add(_identity(facts))
        if not is_root and device != facts.st_dev:
            self._notes.drives.add(directory)
        if self._places is not None:
            found, links = (self._places.below(directory, each) for each in (found, links))
        self.links.extend((link, root) for link in links)
        return found

    def _pattern(self, path: str, root: str) -> str | None:
        """Return the pattern that leaves out a file at or under a root, if any."""
        if path == root:
            return self._exclusions.of_named(path.removeprefix(self._here).lstrip("/"))
        return self._exclusions.of_file(path[_below(root) :])

    def _counts(self, pattern: str | None) -> bool:
        """Count an entry that a pattern, or its kind, leaves out; say whether there is one."""
        if pattern is not None:
            self._notes.excluded[pattern] += 1
        return pattern is not None

    def _children(self, directory: str) -> tuple[list[str], list[str]]:
        """Return the visible entries that are no roots themselves, the last first, and links."""
        found: list[str] = []
        links: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if not (entry.name.startswith(".") or entry.path in self._named):
                    (links if entry.is_symlink() else found).append(entry.path)
        return sorted(found, reverse=True), sorted(links)

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


def _kind(directory: str, found: list[str]) -> str | None:
    """Return what a directory counts as that is left out for what it holds, if it is one."""
    if os.path.join(directory, "segments") in found and any(
        os.path.join(directory, name) in found for name in _CATALOGS
    ):
        return COLLECTIONS
    return MOVED_AWAY if any(path.endswith(MANIFEST) for path in found) else None


def _below(root: str) -> int:
    """Return where in a path under a root begins what is relative to it."""
    return len(root.rstrip("/")) + 1


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino
