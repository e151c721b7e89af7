"""The copies of segments that the workers of one machine keep."""

import os
import time
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from imgsim.files import cache_folder

_IN_USE = 3_600  # seconds after which a search that began with a file may be done with it


def cache_of(url: str) -> Path:
    """Return the folder, which is made, for copies of what is in the bucket at ``url``."""
    folder = cache_folder() / "segments" / sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_room(needed: Collection[str], most: int) -> None:
    """Remove what was used longest ago, of whichever bucket, until all takes at most so many bytes.

    Files of segments whose names are ``needed`` stay, and so do those that were used in the last
    hour.
    """
    files = list[tuple[float, int, Path]]()
    for path in (cache_folder() / "segments").glob("*/*"):
        with suppress(FileNotFoundError):  # another worker makes room, too
            if path.name.partition(".")[0] in needed:
                os.utime(path)
            facts = path.stat()
            files.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in files)
    for used, size, path in sorted(files):
        if total > most and time.time() - used > _IN_USE:
            path.unlink(missing_ok=True)
            total -= size
