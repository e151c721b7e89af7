"""Images that were chosen: their paths in a file, copies of them or links to them in a folder."""

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Literal

from imgsim.errors import ImageError, OutputError, unavailable
from imgsim.files import absolute, replacing, writing
from imgsim.results import Progress, Refusal

Gathering = Literal["copy", "link"]
"""How images come into a folder: as copies, or as symbolic links to them."""

_LONGEST = 235  # bytes of a file's name; the temporary one has a few more


def write_paths(path: Path, chosen: Sequence[str], end: str = "\n") -> None:
    """Write each path, byte for byte, followed by ``end``."""
    with writing(path), replacing(path.resolve()) as temporary:
        temporary.write_bytes(b"".join(os.fsencode(each + end) for each in chosen))


def check_folder(folder: Path) -> None:
    """Raise :class:`OutputError` unless ``folder`` is an empty folder, or can be made."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise OutputError(f"{folder}: is not empty; name a new folder, so that none is mixed")
    elif os.path.lexists(folder):
        raise OutputError(f"{folder}: exists and is not a folder")
    elif not folder.parent.is_dir():
        raise OutputError(f"{folder}: there is no folder {folder.parent}")


def gather(
    chosen: Sequence[str], folder: Path, how: Gathering, on_progress: Progress | None = None
) -> list[Refusal]:
    """Put copies of files, or links to them, into a new or empty folder; return what failed.

    Their names are those of the files after a number, which is their place in the order. Nothing is
    overwritten. Raises :class:`OutputError` for another folder, :class:`StoreError` where it cannot
    be written to.
    """
    check_folder(folder)
    refused, digits = [], len(str(len(chosen)))
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for number, path in enumerate(chosen, start=1):
        target = folder / _name(path, f"{number:0{digits}}-")
        try:
            _PLACED[how](path, target)
        except ImageError as error:
            refused.append(Refusal(error.path, error.reason))
        if on_progress is not None:
            on_progress(number, len(chosen))
    return refused


def _copy(path: str, target: Path) -> None:
    """Copy a file with its time; under its name it is whole, or empty after a kill."""
    with _source(path) as source, writing(target), ExitStack() as undone:
        with target.open("xb"):  # the name is ours
            undone.callback(target.unlink)
        with replacing(target) as temporary:
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file)
            facts = os.fstat(source.fileno())
            os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        undone.pop_all()


def _link(path: str, target: Path) -> None:
    with _source(path), writing(target):
        target.symlink_to(absolute(path))


def _source(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise unavailable(path, error) from error


_PLACED = {"copy": _copy, "link": _link}


def _name(path: str, number: str) -> str:
    """Return the name of the file at ``path`` after a number, shortened to what names may have."""
    name = os.fsencode(Path(path).name)
    ending = os.fsencode(Path(path).suffix)
    room = _LONGEST - len(number) - len(ending)
    stem = name.removesuffix(ending)[: max(0, room)]
    with suppress(UnicodeDecodeError):
        name.decode()  # what was valid stays so
        stem = stem.decode("utf-8", "ignore").encode()
    return number + os.fsdecode(stem + ending)
