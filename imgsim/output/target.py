"""Names of files to write, checked before anything is computed."""

import os
from collections.abc import Collection
from pathlib import Path

from imgsim.errors import OutputError

FIGURES = ".png", ".pdf", ".svg"
PAGES = ".html", ".htm"
NEIGHBOURS = ".csv", ".jsonl", ".parquet", ".npz"
EMBEDDINGS = ".npz", ".parquet", ".pkl"
INDEXES = (".faiss",)
MAPS = *PAGES, ".png", ".parquet"


def check_target(path: Path, suffixes: Collection[str], *, folders: bool = False) -> None:
    """Raise :class:`OutputError` if a file of this name cannot be written.

    That is one with another suffix, in a folder that is missing or cannot be written to, or in
    place of something that is not a regular file. With ``folders``, a name without a suffix is that
    of a folder, which may be there.
    """
    folder = path.resolve().parent
    if folders and not path.suffix:
        if path.is_dir():
            folder = path
        elif path.exists():
            raise OutputError(f"{path}: exists and is not a folder")
    elif path.suffix.lower() not in suffixes:
        raise OutputError(f"{path}: the name must end in {' or '.join(suffixes)}")
    elif path.exists() and not path.is_file():
        raise OutputError(f"{path}: exists and is not a regular file")
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write to the folder {folder}")
