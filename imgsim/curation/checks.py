"""Whether an image file is what the catalog says, and so is the one kept instead of it."""

import os
import stat
from dataclasses import dataclass

from imgsim.curation.placing import Stamp, is_writable, stamp
from imgsim.errors import ImageError, ImageForbidden, unavailable
from imgsim.files import mtime_ns
from imgsim.images.decode import content_hash
from imgsim.records import ImageRecord


@dataclass(frozen=True)
class Pair:
    """A stored image to act upon, whose id is ``number``, and the one that is kept instead."""

    number: int
    image: ImageRecord
    kept: ImageRecord


def compared(pair: Pair) -> os.stat_result:
    """Return the facts of the file to act upon; raise :class:`ImageError` if it is to stay.

    Only facts are compared, no contents. A file that cannot be acted upon is to stay too.
    """
    path, kept = pair.image.path, pair.kept.path
    try:
        facts = os.lstat(path)
    except OSError as error:
        raise unavailable(path, error) from error
    if not stat.S_ISREG(facts.st_mode):
        link = stat.S_ISLNK(facts.st_mode)
        raise ImageError(path, "is a link" if link else "is not a regular file")
    if not is_writable(os.path.dirname(path)):
        raise ImageForbidden(path, "its folder cannot be written to")
    if (facts.st_size, mtime_ns(facts)) != (pair.image.size, pair.image.mtime_ns):
        raise ImageError(path, "was changed since its ingest")
    others = _kept_facts(pair)
    if os.path.samestat(facts, others):
        raise ImageError(path, f"is the same file as {kept}")
    if not stat.S_ISREG(others.st_mode) or others.st_size != pair.kept.size:
        raise ImageError(path, f"{kept}, which is kept instead, was changed since its ingest")
    return facts


class Contents:
    """Compares the contents of files with the catalog, too; that of one that is kept once."""

    def __init__(self) -> None:
        self._kept: dict[str, Stamp] = {}

    def compared(self, pair: Pair) -> os.stat_result:
        """Do what :func:`compared` does, and compare what is in the two files."""
        facts = compared(pair)
        path, kept = pair.image.path, pair.kept.path
        if content_hash(path) != pair.image.sha256:
            raise ImageError(path, "was changed since its ingest, though not its size and time")
        if self._kept.get(kept) != stamp(_kept_facts(pair)):
            self._compare_kept(pair)
        return facts

    def _compare_kept(self, pair: Pair) -> None:
        path, kept = pair.image.path, pair.kept.path
        seen = stamp(_kept_facts(pair))
        try:
            is_same = content_hash(kept) == pair.kept.sha256
        except ImageError as error:
            raise ImageError(path, f"{kept}, which is kept instead: {error.reason}") from error
        if not is_same:
            raise ImageError(path, f"{kept}, which is kept instead, was changed since its ingest")
        self._kept[kept] = seen


def _kept_facts(pair: Pair) -> os.stat_result:
    try:
        return os.stat(pair.kept.path)
    except OSError as error:
        reason = f"{pair.kept.path}, which is kept instead: {error.strerror}"
        raise ImageError(pair.image.path, reason) from error
