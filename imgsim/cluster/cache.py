"""The copies of segments that the workers of one machine keep."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from imgsim.files import cache_folder
from imgsim.locks import reading, sole_reader


@contextmanager
def cache_of(url: str) -> Iterator[Path]:
    """Yield the folder for copies of what is in the bucket at ``url``; meanwhile, none goes."""
    folder = cache_folder() / "segments" / sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with reading(folder):
        yield folder


def make_room(needed: Mapping[str, int], most: int) -> None:
    """Remove what was used longest ago, until all takes at most so many bytes.

    That is with the copies of segments that are ``needed``, by name, and take as many bytes each;
    those stay, and so do those in folders that somebody uses.
    """
    files = list[tuple[float, int, Path]]()
    for path in (cache_folder() / "segments").glob("*/*"):
        with suppress(FileNotFoundError):  # another worker makes room, too
            if _segment(path) in needed:
                os.utime(path)
            facts = path.stat()
            files.append((facts.st_mtime, facts.st_size, path))
    here = {_segment(path) for _, _, path in files}
    total = sum(size for name, size in needed.items() if name not in here)
    total += sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total > most and _segment(path) not in {*needed, "readers"}:
            with sole_reader(path.parent) as alone:
                if alone:
                    path.unlink(missing_ok=True)
                    total -= size


def _segment(path: Path) -> str:
    """Return the name of the segment whose copy a file is."""
    return path.name.partition(".")[0]
