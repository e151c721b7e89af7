"""Data files out: neighbour lists, features and a FAISS index, streamed and atomic."""

import csv
import json
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

from imgsim.errors import StoreError
from imgsim.files import replacing
from imgsim.types import ImageNeighbours
from imgsim.vectors import write_flat

NEIGHBOUR_COLUMNS = ("image_id", "path", "rank", "neighbour_id", "neighbour_path", "distance")
_ROWS_AT_ONCE = 65_536

Row = tuple[int, str, int, int, str, float]
FeatureBlock = tuple[NDArray[np.int64], list[str], NDArray[np.float32]]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Features:
    """Latents to write: blocks of ids (n,), paths and vectors (n, dim), ``rows`` in all."""

    blocks: Iterable[FeatureBlock]
    rows: int
    dim: int
    path_bytes: int

    def parts(self) -> Iterator[tuple[slice, FeatureBlock]]:
        """Yield each block with the slice of all rows that it fills."""
        start = 0
        for block in self.blocks:
            yield slice(start, start + len(block[0])), block
            start += len(block[0])


def write_neighbours(path: Path, lists: Iterable[ImageNeighbours], path_bytes: int) -> int:
    """Write neighbour lists as .csv, .jsonl, .parquet or .npz, one row for each neighbour.

    Returns the number of rows; ``path_bytes`` is the length of the longest path. Paths that are
    not valid UTF-8 are exact in .csv (raw bytes), .jsonl (escaped surrogates) and .npz (bytes);
    .parquet shows such bytes as a backslash, an x and two hexadecimal digits.
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
            for match in image.matches:
                self.count += 1
                yield image.id, image.path, match.rank, match.id, match.path, match.distance


def write_features(path: Path, features: Features) -> None:
    """Write features as .npz or .parquet, or as a .pkl of ``{"indices", "features"}``."""
    _write(path, _FEATURE_WRITERS, features)


def write_index(path: Path, features: Features) -> None:
    """Write one FAISS ``IndexIDMap2`` over an ``IndexFlatL2``, with image ids."""
    _write(path, {".faiss": _index}, features)


def _write(path: Path, writers: Mapping[str, Callable[[Path, _T], None]], data: _T) -> None:
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise StoreError(f"{path}: the name must end in {' or '.join(writers)}")
    try:
        with replacing(path) as temporary:
            writer(temporary, data)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error


def _csv(path: Path, rows: _Rows) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(NEIGHBOUR_COLUMNS)
        writer.writerows(rows)


def _jsonl(path: Path, rows: _Rows) -> None:
    with path.open("w", encoding="ascii") as file:
        for row in rows:
            file.write(json.dumps(dict(zip(NEIGHBOUR_COLUMNS, row, strict=True))) + "\n")


def _parquet(path: Path, rows: _Rows) -> None:
    import pyarrow as pa  # noqa: PLC0415 - heavy, and only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    kinds = (pa.int64(), pa.string(), pa.int32(), pa.int64(), pa.string(), pa.float64())
    schema = pa.schema(list(zip(NEIGHBOUR_COLUMNS, kinds, strict=True)))
    plain = ((a, _text(b), c, d, _text(e), f) for a, b, c, d, e, f in rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while chunk := list(islice(plain, _ROWS_AT_ONCE)):
            columns = zip(*chunk, strict=True)
            arrays = [pa.array(c, k) for c, k in zip(columns, kinds, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


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
        while chunk := list(islice(plain, _ROWS_AT_ONCE)):
            for file, kind, column in zip(files, kinds, zip(*chunk, strict=True), strict=True):
                file.write(np.array(column, kind).tobytes())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, kind, file in zip(NEIGHBOUR_COLUMNS, kinds, files, strict=True):
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": kind.str, "fortran_order": False, "shape": (rows.count,)}
                    write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 1 << 20)


def _features_npz(path: Path, features: Features) -> None:
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "image_id": ("i8", (features.rows,)),
        "path": (f"S{max(1, features.path_bytes)}", (features.rows,)),
        "features": ("f4", (features.rows, features.dim)),
    }
    with _npz_arrays(path, shapes) as arrays:
        for part, (ids, paths, vectors) in features.parts():
            arrays["image_id"][part] = ids
            arrays["path"][part] = [os.fsencode(name) for name in paths]
            arrays["features"][part] = vectors


def _features_parquet(path: Path, features: Features) -> None:
    import pyarrow as pa  # noqa: PLC0415 - heavy, and only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    vector = pa.list_(pa.float32(), features.dim)
    schema = pa.schema([("image_id", pa.int64()), ("path", pa.string()), ("features", vector)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for ids, paths, vectors in features.blocks:
            arrays = [
                pa.array(ids),
                pa.array([_text(name) for name in paths], pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), features.dim),
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _features_pickle(path: Path, features: Features) -> None:
    indices = np.empty(features.rows, np.int64)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        shape = features.rows, features.dim
        vectors = open_memmap(Path(scratch) / "features.npy", "w+", "f4", shape)
        for part, (ids, _, block) in features.parts():
            indices[part], vectors[part] = ids, block
        with path.open("wb") as file:
            pickle.dump({"indices": indices, "features": np.asarray(vectors)}, file, protocol=5)


def _index(path: Path, features: Features) -> None:
    import faiss  # noqa: PLC0415 - only this export needs it

    ids = np.empty(features.rows, np.int64)

    def vectors() -> Iterator[NDArray[np.float32]]:
        for part, (block_ids, _, block) in features.parts():
            ids[part] = block_ids
            yield block

    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        flat = Path(scratch) / "flat.faiss"
        write_flat(flat, features.rows, features.dim, vectors())
        empty = faiss.IndexFlatL2(features.dim)  # IndexIDMap2 accepts no other when it is made
        index = faiss.IndexIDMap2(empty)
        index.index = mapped = faiss.read_index(str(flat), faiss.IO_FLAG_MMAP_IFC)
        faiss.copy_array_to_vector(ids, index.id_map)
        index.ntotal = mapped.ntotal
        faiss.write_index(index, str(path))


def _text(path: str) -> str:
    """Return a path as valid Unicode; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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


_NEIGHBOUR_WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".npz": _npz}
_FEATURE_WRITERS = {".npz": _features_npz, ".parquet": _features_parquet, ".pkl": _features_pickle}
