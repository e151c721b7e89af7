"""What a collection's folder holds."""

import os
from pathlib import Path

from imgsim.catalog import Catalog
from imgsim.errors import CollectionError
from imgsim.files import writer_lock

CATALOG = "catalog.db"
CHECKPOINTS = "training"
_OWN_NAMES = {
    "lock",
    "readers",
    "segments",
    "encoders",
    CHECKPOINTS,
    CATALOG,
    f"{CATALOG}-wal",
    f"{CATALOG}-shm",
}


def new_collection(directory: Path) -> None:
    """Make an empty collection in a new or empty directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(set(os.listdir(directory)) - _OWN_NAMES)
        if strangers:
            raise CollectionError(
                directory, f"is not a collection and not empty: it holds {strangers[0]!r}"
            )
        (directory / "segments").mkdir(exist_ok=True)
        (directory / "encoders").mkdir(exist_ok=True)
    except OSError as error:
        raise CollectionError(directory, f"cannot be created: {error.strerror}") from error
    with writer_lock(directory):
        Catalog(directory / CATALOG).close()
