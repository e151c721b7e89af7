"""The embeddings of images in the order of their paths, whatever the order of their ingest."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.files import writing
from imgsim.index.gallery import Searchable
from imgsim.options import SearchFilter

BLOCK = 8_192
"""Rows that are in memory at once."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The ``embeddings`` (n, d) float32 of the images with these ``ids`` (n,) int64, by path."""

    snapshot: Snapshot
    ids: NDArray[np.int64]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the rows, some at a time, and which they are."""
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, self.embeddings[part]


@contextmanager
def rows_by_path(directory: Directory, within: SearchFilter) -> Iterator[Rows]:
    """Yield the embeddings that ``within`` admits, mapped from a file without a name.

    It is among the system's temporary files, and gone with the process. What is stored is verified
    as it is copied, so later passes need no checksums. Raises :class:`StoreError` on a full disk.
    """
    folder = Path(tempfile.gettempdir())
    with ExitStack() as opened:
        snapshot = opened.enter_context(directory.reading())
        gallery = opened.enter_context(directory.gallery(snapshot, within))
        admitted = {number for ids, _ in gallery.blocks() for number in ids.tolist()}
        by_path = (number for _, number in snapshot.images_under("/") if number in admitted)
        ids = np.fromiter(by_path, np.int64)
        with writing(folder):
            file = opened.enter_context(tempfile.TemporaryFile(dir=folder))
            _copy(gallery, ids, file)
        shape = len(ids), gallery.dim
        rows = np.memmap(file, np.float32, "r", shape=shape) if len(ids) else np.empty(shape, "f4")
        yield Rows(snapshot, ids, rows)


def _copy(gallery: Searchable, ids: NDArray[np.int64], file: IO[bytes]) -> None:
    """Write the embeddings of images in the order of ``ids``.

    Nothing is mapped for writing: where the disk is full, that would end the process.
    """
    order = np.argsort(ids)
    for numbers, rows in gallery.blocks():
        places = order[np.searchsorted(ids, numbers, sorter=order)]
        for place, row in zip(places.tolist(), rows, strict=True):
            file.seek(place * row.nbytes)
            file.write(row.data)
    file.flush()
