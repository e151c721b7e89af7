"""Which files are gone for good, and which may be on a drive that is not plugged in."""

import os
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from functools import cache


def is_gone(path: str) -> bool:
    """Say whether there surely is nothing at ``path``; what cannot be looked at is not gone."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_same_file(path: str, other: str) -> bool:
    """Say whether two paths lead to one file by links or mounts; a hard link is another file."""
    try:
        one, two = os.stat(path), os.stat(other)
        same = (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
        return same and (one.st_nlink == 1 or os.path.realpath(path) == os.path.realpath(other))
    except OSError:
        return False


class State(Enum):
    """What is to be seen of a folder: something in it, nothing in it, or nothing of itself."""

    filled = auto()
    empty = auto()
    missing = auto()


class Roots:
    """The folders that were ingested; each is looked at once."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = frozenset(folders)
        self.state = cache(_state)

    def of(self, path: str) -> str:
        """Return the innermost root that a path is in; its folder if it is in none."""
        above = list(parents(path))
        return next((parent for parent in above if parent in self._folders), above[0])

    def are_away(self, path: str) -> bool:
        """Say whether the root of a path is missing or empty, as when a drive is not plugged in."""
        return self.state(self.of(path)) is not State.filled


def parents(path: str) -> Iterator[str]:
    """Yield the folders that a path is in, the innermost first."""
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _state(folder: str) -> State:
    """Look into a folder; hidden entries do not count, nor what a file system brings along."""
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries)
            seen = any(not name.startswith(".") and name != "lost+found" for name in names)
            return State.filled if seen else State.empty
    except OSError:
        return State.missing
