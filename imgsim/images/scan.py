"""Find image files."""

import os
import stat
from collections.abc import Iterable, Iterator

from imgsim.errors import ImageError, ImageUnavailable, unavailable
from imgsim.files import absolute, mtime_ns
from imgsim.images.formats import suffixes
from imgsim.records import ImageFile


def find(roots: Iterable[str], exclude: str | None = None) -> Iterator[ImageFile | ImageError]:
    """Yield the regular files at and under ``roots``, in the order of the roots and sorted in each.

    Symbolic links are followed; a directory is entered once however it is reached, so loops end,
    and a file that is itself a root is yielded once. Hidden files and directories are left out
    unless they are roots; an empty root is nothing; ``exclude`` is a directory that is not entered.
    What cannot be looked at is yielded as an :class:`ImageUnavailable`. Paths are absolute; links
    in them are kept.
    """
    named = {absolute(root): None for root in roots if root}
    entered = set()
    if exclude is not None and os.path.isdir(exclude):
        entered.add(_identity(os.stat(exclude)))
    for root in named:
        yield from _walk(root, named, entered)


def _walk(
    root: str, named: dict[str, None], entered: set[tuple[int, int]]
) -> Iterator[ImageFile | ImageError]:
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            facts = os.stat(path)
            if stat.S_ISDIR(facts.st_mode):
                if _identity(facts) not in entered:
                    entered.add(_identity(facts))
                    pending.extend(_children(path, named))
            elif stat.S_ISREG(facts.st_mode):
                claimed = path == root or os.path.splitext(path)[1].lower() in suffixes()
                yield ImageFile(path, facts.st_size, mtime_ns(facts), claimed)
            elif path == root:
                yield ImageUnavailable(path, "not a regular file")
        except OSError as error:
            yield unavailable(path, error)
        except ValueError as error:  # a NUL character in the path
            yield ImageUnavailable(path, str(error))


def _children(directory: str, named: dict[str, None]) -> list[str]:
    """Return the visible entries that are not roots themselves, the last first."""
    visible = sorted((n for n in os.listdir(directory) if not n.startswith(".")), reverse=True)
    return [path for name in visible if (path := os.path.join(directory, name)) not in named]


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino
