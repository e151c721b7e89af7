"""Immutable segment files: an ``IndexFlatL2`` of FAISS each, mapped by NumPy.

docs/format.md describes the bytes. A segment is never modified after it was written.
"""

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import CollectionDamaged, StoreError
from imgsim.files import replacing, sha256_file

# Magic, dimension, rows, two unused counts, trained flag, metric (1 = L2), number of values.
_HEADER = struct.Struct("<4siqqqBiQ")
_BLOCK_BYTES = 4 << 20
_MANY = 64  # rows from which on it is quicker to map the file than to read each


def write_flat(path: Path, rows: int, dim: int, blocks: Iterable[NDArray[np.float32]]) -> None:
    """Write an ``IndexFlatL2`` of ``rows`` x ``dim`` from ``blocks`` (n, dim) of rows, in order."""
    with path.open("wb") as file:
        file.write(_HEADER.pack(b"IxF2", dim, rows, 1 << 20, 1 << 20, 1, 1, rows * dim))
        for block in blocks:
            file.write(block.astype("<f4", copy=False).tobytes())


def write_segment(path: Path, vectors: NDArray[np.float32]) -> str:
    """Durably write (n, d) float32 ``vectors`` as a segment and return the file's sha256."""
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise StoreError(f"vectors must be (n, d) float32, not {vectors.shape} {vectors.dtype}")
    if not np.isfinite(vectors).all():
        raise StoreError("the encoder gave values that are not finite; nothing was stored")
    return write_blocks(path, len(vectors), vectors.shape[1], [vectors])


def write_blocks(path: Path, rows: int, dim: int, blocks: Iterable[NDArray[np.float32]]) -> str:
    """Do what :func:`write_segment` does with ``rows`` x ``dim`` values that come in blocks."""
    try:
        with replacing(path) as temporary:
            write_flat(temporary, rows, dim, blocks)
            return sha256_file(temporary)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


class MappedVectors:
    """The vectors of one segment file: (rows, dim) float32, read from the disk when asked for."""

    def __init__(self, path: Path, rows: int, dim: int) -> None:
        expected = f"an IndexFlatL2 of {rows} x {dim}"
        try:
            with path.open("rb") as file:
                header = file.read(_HEADER.size)
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise CollectionDamaged(path, expected, "no file") from error
        except OSError as error:
            raise CollectionDamaged(path, expected, str(error.strerror)) from error
        found = _shape(header, size)
        if found != (rows, dim):
            what = "another kind of file" if found is None else f"{found[0]} x {found[1]}"
            raise CollectionDamaged(path, expected, what)
        self._path, self._rows, self.dim = path, rows, dim

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of some rows, in the order given."""
        if len(rows) >= _MANY:
            return np.array(self.mapped()[rows], np.float32)
        taken = np.empty((len(rows), self.dim), "<f4")
        places = (_HEADER.size + 4 * self.dim * rows).tolist()
        with self._path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            for row, place in zip(taken, places, strict=True):
                if os.preadv(descriptor, [row.data], place) != row.nbytes:
                    raise CollectionDamaged(self._path, f"{self._rows} rows", "the end of the file")
        return taken.astype(np.float32, copy=False)

    def span(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return a copy of the rows from ``start`` to ``stop``, or to the last."""
        return np.array(self.mapped()[start:stop], np.float32)

    def mapped(self) -> NDArray[np.float32]:
        """Return a view (rows, dim) of the file's values, which are not aligned.

        It is mapped anew, so that no descriptor stays open however many segments there are.
        """
        with self._path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) != _HEADER.size + 4 * self._rows * self.dim:
            raise CollectionDamaged(self._path, f"{self._rows} rows", f"{len(mapped)} bytes")
        return np.frombuffer(mapped, "<f4", offset=_HEADER.size).reshape(self._rows, self.dim)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first row, rows) over the whole segment, a few megabytes at a time."""
        step = max(1, _BLOCK_BYTES // (4 * self.dim))
        for start in range(0, len(self), step):
            yield start, self.span(start, start + step)


def _shape(header: bytes, size: int) -> tuple[int, int] | None:
    """Return (rows, dim) of a complete IndexFlatL2 file, or None for anything else."""
    if len(header) < _HEADER.size:
        return None
    magic, dim, rows, _, _, _, metric, values = _HEADER.unpack(header)
    whole = magic == b"IxF2" and metric == 1 and values == rows * dim
    return (rows, dim) if whole and size == _HEADER.size + 4 * values else None
