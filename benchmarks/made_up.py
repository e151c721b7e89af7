"""Collections of embeddings whose images do not exist, for other benchmarks."""

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.catalog import Catalog
from imgsim.catalog.checksums import image_sum
from imgsim.index.vector_store import VectorStore
from imgsim.records import ImageRecord, Segment

BATCH = 131_072  # images, as in a segment that was merged
SEGMENT = 25_000  # images, so that shards are of one size


def stored(path: Path, encoder: Path, rows: NDArray[np.float32]) -> Path:
    """Store embeddings (n, d) in segments of one size, in a copy of an encoder's collection."""
    shutil.copytree(encoder, path)
    fill(path, (rows[at : at + SEGMENT] for at in range(0, len(rows), SEGMENT)))
    return path


def fill(path: Path, blocks: Iterable[NDArray[np.float32]]) -> None:
    """Store a segment of each block of embeddings (n, d) in an empty collection, with bounds."""
    catalog, store = Catalog(path / "catalog.db"), VectorStore(path / "segments")
    start = 0
    with closing(sqlite3.connect(path / "catalog.db", isolation_level=None)) as connection:
        for block in blocks:
            segment = store.add(np.arange(start, start + len(block)) + 1, block)
            _insert(connection, segment, start)
            start += len(block)
    catalog.settle()
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot.segments(), snapshot.segment_ids)
    catalog.close()


def _insert(connection: sqlite3.Connection, segment: Segment, start: int) -> None:
    """Insert the images of a segment, in a tenth of the time that an ingest's commit takes."""
    connection.execute("BEGIN")
    (number,) = connection.execute(
        "INSERT INTO segments (name, rows, dim, sha256, encoder_id, created_at) "
        "VALUES (?, ?, ?, ?, (SELECT id FROM encoders WHERE active), 0) RETURNING id",
        (segment.name, segment.rows, segment.dim, segment.sha256),
    ).fetchone()
    connection.executemany(
        "INSERT INTO images (id, path, size, mtime_ns, sha256, width, height, checksum, "
        "segment_id, row) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((*_image(start + row), number, row) for row in range(segment.rows)),
    )
    connection.execute("COMMIT")


def _image(number: int) -> tuple[object, ...]:
    """Return what the catalog has of a made-up image."""
    path = f"/pictures/{number // 1_000}/{number}.jpg"
    image = ImageRecord(path, 200_000, 1, number.to_bytes(32), 640, 480)
    facts = image.size, image.mtime_ns, image.sha256, image.width, image.height
    return number + 1, path.encode(), *facts, image_sum(number + 1, image)
