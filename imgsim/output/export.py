"""Data files out: neighbour lists, embeddings and a FAISS index, streamed and atomic."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.lib.format import open_memmap, write_array_header_1_0
from numpy.typing import NDArray

from imgsim.files import replacing, writing
from imgsim.index.segment_file import write_flat
from imgsim.output.listing import (
    NEIGHBOUR_COLUMNS,
    PATH_BYTES,
    ROWS_AT_ONCE,
    Row,
    neighbour_rows,
    plain_path,
    record_batches,
    schema_of,
    write_csv,
    write_jsonl,
)
from imgsim.output.target import EMBEDDINGS, INDEXES, NEIGHBOURS, check_target
from imgsim.results import ImageNeighbours

EmbeddingBlock = tuple[NDArray[np.int64], list[str], NDArray[np.float32]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings to write: blocks of ids (n,), paths and rows (n, dim), ``rows`` in all."""

    blocks: Iterable[EmbeddingBlock]
    rows: int
    dim: int
    path_bytes: int

    def parts(self) -> Iterator[tuple[slice, EmbeddingBlock]]:
        """Yield each block with the slice of all rows that it fills."""
        start = 0
        for block in self.blocks:
            yield slice(start, start + len(block[0])), block
            start += len(block[0])


def write_neighbours(path: Path, lists: Iterable[ImageNeighbours], path_bytes: int) -> int:
    """Write neighbour lists as .csv, .jsonl, .parquet or .npz, one row for each neighbour.

    Returns the number of rows; ``path_bytes`` is the length of the longest path. Paths that are
    not valid UTF-8 are exact in .csv (raw bytes), .jsonl (escaped surrogates) and .npz (bytes);
    .parquet shows such bytes as a backslash, an x and two hexadecimal digits, and has the exact
    paths in columns of bytes.
    """
    rows = _Rows(lists, path_bytes)
    _write(path, _NEIGHBOUR_WRITERS, rows)
    return rows.count


class _Rows:
    """One row for each neighbour, in the order of NEIGHBOUR_COLUMNS, counted as they pass."""

    def __init__(self, lists: Iterable[ImageNeighbours], path_bytes: int) -> None:
        self._lists = lists
        self.path_bytes = path_bytes
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for image in self._lists:
            for row in neighbour_rows(image):
                self.count += 1
                yield row


def write_embeddings(path: Path, data: Embeddings) -> None:
    """Write embeddings as .npz or .parquet, or as a .pkl of ``{"indices", "features"}``."""
    _write(path, _EMBEDDING_WRITERS, data)


def write_index(path: Path, data: Embeddings) -> None:
    """Write one FAISS ``IndexIDMap2`` over an ``IndexFlatL2``, with image ids."""
    _write(path, dict.fromkeys(INDEXES, _index), data)


def _write(path: Path, writers: Mapping[str, Callable[[Path, _T], None]], data: _T) -> None:
    check_target(path, writers)
    with writing(path), replacing(path.resolve()) as temporary:
        writers[path.suffix.lower()](temporary, data)


def _csv(path: Path, rows: _Rows) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        write_csv(file, rows)


def _jsonl(path: Path, rows: _Rows) -> None:
    with path.open("w", encoding="ascii") as file:
        write_jsonl(file, rows)


def _parquet(path: Path, rows: _Rows) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy, and only this format needs it

    with pq.ParquetWriter(path, schema_of(NEIGHBOUR_COLUMNS), compression="zstd") as writer:
        for batch in record_batches(rows, NEIGHBOUR_COLUMNS):
            writer.write_batch(batch)


def _npz(path: Path, rows: _Rows) -> None:
    text = f"S{max(1, rows.path_bytes)}"
    kinds = [np.dtype(kind) for kind in ("i8", text, "i4", "i8", text, "f8")]
    plain = ((a, os.fsencode(b), c, d, os.fsencode(e), f) for a, b, c, d, e, f in rows)
    with (
        TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch,
        ExitStack() as open_,
    ):
        files = [
            open_.enter_context((Path(scratch) / name).open("w+b")) for name in NEIGHBOUR_COLUMNS
        ]
        while chunk := list(islice(plain, ROWS_AT_ONCE)):
            for file, kind, column in zip(files, kinds, zip(*chunk, strict=True), strict=True):
                file.write(np.array(column, kind).tobytes())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, kind, file in zip(NEIGHBOUR_COLUMNS, kinds, files, strict=True):
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": kind.str, "fortran_order": False, "shape": (rows.count,)}
                    write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 1 << 20)


def _embeddings_npz(path: Path, data: Embeddings) -> None:
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "image_id": ("i8", (data.rows,)),
        "path": (f"S{max(1, data.path_bytes)}", (data.rows,)),
        "embedding": ("f4", (data.rows, data.dim)),
    }
    with _npz_arrays(path, shapes) as arrays:
        for part, (ids, paths, embeddings) in data.parts():
            arrays["image_id"][part] = ids
            arrays["path"][part] = [os.fsencode(name) for name in paths]
            arrays["embedding"][part] = embeddings


def _embeddings_parquet(path: Path, data: Embeddings) -> None:
    import pyarrow as pa  # noqa: PLC0415 - heavy, and only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    embedding = pa.list_(pa.float32(), data.dim)
    schema = pa.schema(
        [
            ("image_id", pa.int64()),
            ("path", pa.string()),
            ("embedding", embedding),
            (f"path{PATH_BYTES}", pa.binary()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for ids, paths, embeddings in data.blocks:
            arrays = [
                pa.array(ids),
                pa.array([plain_path(name) for name in paths], pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), data.dim),
                pa.array([os.fsencode(name) for name in paths], pa.binary()),
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _embeddings_pickle(path: Path, data: Embeddings) -> None:
    indices = np.empty(data.rows, np.int64)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        shape = data.rows, data.dim
        embeddings = open_memmap(Path(scratch) / "embeddings.npy", "w+", "f4", shape)
        for part, (ids, _, block) in data.parts():
            indices[part], embeddings[part] = ids, block
        with path.open("wb") as file:
            pickle.dump({"indices": indices, "features": np.asarray(embeddings)}, file, protocol=5)


def _index(path: Path, data: Embeddings) -> None:
    import faiss  # noqa: PLC0415 - only this export needs it

    ids = np.empty(data.rows, np.int64)

    def embeddings() -> Iterator[NDArray[np.float32]]:
        for part, (block_ids, _, block) in data.parts():
            ids[part] = block_ids
            yield block

    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        flat = Path(scratch) / "flat.faiss"
        write_flat(flat, data.rows, data.dim, embeddings())
        empty = faiss.IndexFlatL2(data.dim)  # IndexIDMap2 accepts no other when it is made
        index = faiss.IndexIDMap2(empty)
        index.index = mapped = faiss.read_index(str(flat), faiss.IO_FLAG_MMAP_IFC)
        faiss.copy_array_to_vector(ids, index.id_map)
        index.ntotal = mapped.ntotal
        faiss.write_index(index, str(path))


@contextmanager
def _npz_arrays(
    path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Iterator[dict[str, np.memmap[Any, Any]]]:
    """Yield arrays on disk that become the members of the .npz when the block succeeds."""
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        parts = {name: Path(scratch) / f"{name}.npy" for name in shapes}
        arrays: dict[str, np.memmap[Any, Any]] = {
            name: open_memmap(parts[name], "w+", np.dtype(kind), shape)
            for name, (kind, shape) in shapes.items()
        }
        yield arrays
        for array in arrays.values():
            array.flush()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for part in parts.values():
                archive.write(part, part.name)


_NEIGHBOUR_WRITERS = dict(zip(NEIGHBOURS, (_csv, _jsonl, _parquet, _npz), strict=True))
_EMBEDDING_WRITERS = dict(
    zip(EMBEDDINGS, (_embeddings_npz, _embeddings_parquet, _embeddings_pickle), strict=True)
)
