"""Data files out: neighbour lists, embeddings and a FAISS index, streamed and atomic."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from imgsim.files import replacing, writing
from imgsim.findings import ImageMap
from imgsim.index.segment_file import write_id_map
from imgsim.output.listing import (
    MAP_COLUMNS,
    NEIGHBOUR_COLUMNS,
    PATH_BYTES,
    ROWS_AT_ONCE,
    Row,
    map_rows,
    neighbour_rows,
    plain_path,
    record_batches,
    schema_of,
    write_csv,
    write_jsonl,
)
from imgsim.output.target import EMBEDDINGS, INDEXES, NEIGHBOURS
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


def write_positions(path: Path, found: ImageMap) -> None:
    """Write ids, paths and positions as .parquet."""
    _write(path, {".parquet": partial(write_parquet, columns=MAP_COLUMNS)}, map_rows(found))


def write_index(path: Path, data: Embeddings) -> None:
    """Write one FAISS ``IndexIDMap2`` over an ``IndexFlatL2``, with image ids."""
    _write(path, dict.fromkeys(INDEXES, _index), data)


def _write(path: Path, writers: Mapping[str, Callable[[Path, _T], None]], data: _T) -> None:
    with writing(path), replacing(path.resolve()) as temporary:
        writers[path.suffix.lower()](temporary, data)


def _csv(path: Path, rows: _Rows) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        write_csv(file, rows)


def _jsonl(path: Path, rows: _Rows) -> None:
    with path.open("w", encoding="ascii") as file:
        write_jsonl(file, rows)


def write_parquet(
    path: Path, rows: Iterable[Row], columns: dict[str, str] = NEIGHBOUR_COLUMNS
) -> None:
    """Write rows of some columns as Parquet, to a new file that is not complete at once."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy, and only this format needs it

    with pq.ParquetWriter(path, schema_of(columns), compression="zstd") as writer:
        for batch in record_batches(rows, columns):
            writer.write_batch(batch)


def _npz(path: Path, rows: _Rows) -> None:
    text = f"S{max(1, rows.path_bytes)}"
    kinds = dict(zip(NEIGHBOUR_COLUMNS, ("i8", text, "i4", "i8", text, "f8"), strict=True))
    plain = ((a, os.fsencode(b), c, d, os.fsencode(e), f) for a, b, c, d, e, f in rows)

    def chunks() -> Iterator[Sequence[Any]]:
        while chunk := list(islice(plain, ROWS_AT_ONCE)):
            yield list(zip(*chunk, strict=True))

    _write_npz(path, kinds, chunks())


def _embeddings_npz(path: Path, data: Embeddings) -> None:
    kinds = {
        "image_id": "i8",
        "path": f"S{max(1, data.path_bytes)}",
        "embedding": f"({data.dim},)f4",
    }
    blocks = ((ids, [*map(os.fsencode, paths)], rows) for ids, paths, rows in data.blocks)
    _write_npz(path, kinds, blocks)


def _write_npz(path: Path, kinds: Mapping[str, str], chunks: Iterable[Sequence[Any]]) -> None:
    """Write columns of these types, which come in chunks, by way of a file for each.

    Nothing is mapped for writing: where the disk is full, that would end the process.
    """
    types, count = {name: np.dtype(kind) for name, kind in kinds.items()}, 0
    with ExitStack() as opened:
        beside = TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
        scratch = opened.enter_context(beside)
        files = {name: opened.enter_context((Path(scratch) / name).open("w+b")) for name in kinds}
        for chunk in chunks:
            count += len(chunk[0])
            for (name, file), column in zip(files.items(), chunk, strict=True):
                file.write(np.asarray(column, types[name].base).tobytes())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, file in files.items():
                file.seek(0)
                shape = count, *types[name].shape
                header = {"descr": types[name].base.str, "fortran_order": False, "shape": shape}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 1 << 20)


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
    embeddings: NDArray[np.float32] = np.empty((0, data.dim), np.float32)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        raw = Path(scratch) / "embeddings"
        with raw.open("wb") as file:
            for part, (ids, _, block) in data.parts():
                indices[part] = ids
                file.write(block.tobytes())
        if data.rows:  # an empty file cannot be mapped
            embeddings = np.memmap(raw, np.float32, "r", shape=(data.rows, data.dim))
        with path.open("wb") as file:
            pickle.dump({"indices": indices, "features": np.asarray(embeddings)}, file, protocol=5)


def _index(path: Path, data: Embeddings) -> None:
    blocks = ((ids, embeddings) for ids, _, embeddings in data.blocks)
    write_id_map(path, data.rows, data.dim, blocks)


_NEIGHBOUR_WRITERS = dict(zip(NEIGHBOURS, (_csv, _jsonl, write_parquet, _npz), strict=True))
_EMBEDDING_WRITERS = dict(
    zip(EMBEDDINGS, (_embeddings_npz, _embeddings_parquet, _embeddings_pickle), strict=True)
)
