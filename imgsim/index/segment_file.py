"""Immutable segment files: embeddings as an ``IndexFlatL2`` of FAISS, a table of rows as ``.npy``.

docs/format.md describes the bytes. Neither is modified after it was written.
"""

import io
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from imgsim.errors import CollectionDamaged, CollectionError, StoreError
from imgsim.files import replacing, sha256_file, writing
from imgsim.records import Segment
from imgsim.results import Damage

# Magic, dimension, rows, two unused counts, trained flag, metric (1 = L2), and of the embeddings
# the number of values.
_HEADER = struct.Struct("<4siqqqBiQ")
_ID_MAP_HEADER = struct.Struct("<4siqqqBi")

ROW = np.dtype([("id", "<i8"), ("sum", "<u8")])
"""A row of the table: the id of its image, and a checksum of the id and the embedding."""

TABLE_END = ".rows.npy"

_BLOCK_BYTES = 4 << 20
_MANY = 64  # rows from which on it is quicker to map the file than to read each

Block = NDArray[np.float32]
"""Embeddings (n, dim)."""

_Scalar = TypeVar("_Scalar", bound=np.generic)


def write_id_map(
    path: Path, rows: int, dim: int, blocks: Iterable[tuple[NDArray[np.int64], Block]]
) -> None:
    """Write an ``IndexIDMap2`` over an ``IndexFlatL2``, from ids (n,) and embeddings (n, dim).

    FAISS would write the same bytes, and take no note of a disk that is full at the last of them.
    """
    ids: list[NDArray[np.int64]] = []

    def embeddings() -> Iterator[Block]:
        for block_ids, block in blocks:
            ids.append(block_ids)
            yield block

    with path.open("wb") as file:
        file.write(_ID_MAP_HEADER.pack(b"IxM2", dim, rows, 1 << 20, 1 << 20, 1, 1))
        _write_flat(file, rows, dim, embeddings())
        file.write(struct.pack("<Q", rows))
        for block_ids in ids:
            file.write(block_ids.astype("<i8", copy=False).tobytes())


def _write_flat(file: IO[bytes], rows: int, dim: int, blocks: Iterable[Block]) -> None:
    """Write an ``IndexFlatL2`` of ``rows`` x ``dim`` from blocks (n, dim) of rows, in order."""
    file.write(_HEADER.pack(b"IxF2", dim, rows, 1 << 20, 1 << 20, 1, 1, rows * dim))
    for block in blocks:
        file.write(block.astype("<f4", copy=False).tobytes())


def write_segment(path: Path, embeddings: NDArray[np.float32]) -> str:
    """Durably write (n, d) float32 ``embeddings`` as a segment and return the file's sha256."""
    if embeddings.dtype != np.float32 or embeddings.ndim != 2:
        raise StoreError(
            f"embeddings must be (n, d) float32, not {embeddings.shape} {embeddings.dtype}"
        )
    if not np.isfinite(embeddings).all():
        raise StoreError("the encoder gave values that are not finite; nothing was stored")
    return write_blocks(path, len(embeddings), embeddings.shape[1], [embeddings])


def write_blocks(path: Path, rows: int, dim: int, blocks: Iterable[Block]) -> str:
    """Do what :func:`write_segment` does with ``rows`` x ``dim`` values that come in blocks."""
    with writing(path), replacing(path) as temporary:
        with temporary.open("wb") as file:
            _write_flat(file, rows, dim, blocks)
        return sha256_file(temporary)


def write_table(path: Path, table: NDArray[np.void]) -> None:
    """Durably write the table (n,) of ROW of a segment's rows as a .npy file."""
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(_table_header(len(table)) + table.astype(ROW, copy=False).tobytes())


class _MappedRows(Generic[_Scalar]):
    """Rows of one file, (rows, *shape) after a header, read from the disk when asked for."""

    def __init__(self, path: Path, offset: int, kind: np.dtype[Any], rows: int, dim: int) -> None:
        self.path, self._offset, self._kind = path, offset, kind
        self._rows, self.dim = rows, dim

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[_Scalar]:
        """Return a copy of some rows, in the order given."""
        if len(rows) >= _MANY:
            return self._native(self.mapped()[rows])
        taken = np.empty((len(rows), self.dim), self._kind)
        size = self.dim * self._kind.itemsize
        with _read(self.path), self.path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            for row, place in zip(taken, (self._offset + size * rows).tolist(), strict=True):
                if os.preadv(descriptor, [row.data], place) != size:
                    raise CollectionDamaged(self.path, f"{self._rows} rows", "the end of the file")
        return self._native(taken)

    def span(self, start: int, stop: int) -> NDArray[_Scalar]:
        """Return a copy of the rows from ``start`` to ``stop``, or to the last."""
        return self._native(np.array(self.mapped()[start:stop]))

    def mapped(self) -> NDArray[Any]:
        """Return a view (rows, dim) of the file's values, which may not be aligned.

        It is mapped anew, so that no descriptor stays open however many segments there are.
        """
        with _read(self.path), self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) != self._offset + self._kind.itemsize * self._rows * self.dim:
            raise CollectionDamaged(self.path, f"{self._rows} rows", f"{len(mapped)} bytes")
        values = np.frombuffer(mapped, self._kind, offset=self._offset)
        return values.reshape(self._rows, self.dim)

    def _native(self, values: NDArray[Any]) -> NDArray[_Scalar]:
        return values.astype(self._kind.newbyteorder("="), copy=False)


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Raise :class:`CollectionError` for what the operating system refuses while a file is read."""
    try:
        yield
    except OSError as error:
        raise CollectionError(path, f"cannot be read: {error.strerror or error}") from error


class MappedEmbeddings(_MappedRows[np.float32]):
    """The embeddings of one segment file: (rows, dim) float32."""

    def __init__(self, path: Path, rows: int, dim: int) -> None:
        expected = f"an IndexFlatL2 of {rows} x {dim}"
        try:
            found = read_shape(path)
        except FileNotFoundError as error:
            raise CollectionDamaged(path, expected, "no file") from error
        except OSError as error:
            raise CollectionDamaged(path, expected, str(error.strerror)) from error
        if found != (rows, dim):
            what = "another kind of file" if found is None else f"{found[0]} x {found[1]}"
            raise CollectionDamaged(path, expected, what)
        super().__init__(path, _HEADER.size, np.dtype("<f4"), rows, dim)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first row, rows) over the whole segment, a few megabytes at a time."""
        step = max(1, _BLOCK_BYTES // (4 * self.dim))
        for start in range(0, len(self), step):
            yield start, self.span(start, start + step)


class MappedTable(_MappedRows[np.void]):
    """The table of the rows of one segment: (rows, 1) of ROW."""

    def __init__(self, path: Path, rows: int) -> None:
        """Open the file, or raise ValueError or OSError if it is not one of so many rows."""
        header = _table_header(rows)
        with path.open("rb") as file:
            same = file.read(len(header)) == header
            size = os.fstat(file.fileno()).st_size
        if not same or size != len(header) + ROW.itemsize * rows:
            raise ValueError(f"{path}: not a .npy file of {rows} rows")
        super().__init__(path, len(header), ROW, rows, 1)


def _table_header(rows: int) -> bytes:
    """Return what a .npy file of so many of ROW begins with."""
    file = io.BytesIO()
    write_array_header_1_0(file, {"descr": ROW.descr, "fortran_order": False, "shape": (rows,)})
    return file.getvalue()


def read_shape(path: Path) -> tuple[int, int] | None:
    """Return (rows, dim) of a complete IndexFlatL2 file, or None for anything else.

    Raises OSError.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        size = os.fstat(file.fileno()).st_size
    if len(header) < _HEADER.size:
        return None
    magic, dim, rows, _, _, _, metric, values = _HEADER.unpack(header)
    whole = magic == b"IxF2" and metric == 1 and values == rows * dim
    return (rows, dim) if whole and size == _HEADER.size + 4 * values else None


def damage_of(path: Path, segment: Segment) -> Damage | None:
    """Return what is wrong with a file of embeddings, if anything is."""
    try:
        MappedEmbeddings(path, segment.rows, segment.dim)
        found = f"sha256 {sha256_file(path)}"
    except CollectionDamaged as error:
        return Damage(str(path), error.expected, error.found)
    except OSError as error:
        found = str(error.strerror)
    expected = f"sha256 {segment.sha256}"
    return None if found == expected else Damage(str(path), expected, found)
