"""The collection's vectors: segment files that the catalog names."""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog import Snapshot
from imgsim.errors import CollectionDamaged
from imgsim.exact import Block, Nearest, checked_queries, search
from imgsim.files import sha256_file
from imgsim.types import Damage, Segment
from imgsim.vectors import MappedVectors, write_segment


class VectorStore:
    """Segment files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, vectors: NDArray[np.float32]) -> Segment:
        """Durably write (n, d) float32 vectors as a new segment.

        They exist once the catalog commits the segment; until then the file is garbage.
        """
        name = secrets.token_hex(8)
        digest = write_segment(self._path(name), vectors)
        return Segment(name, len(vectors), vectors.shape[1], digest)

    def gallery(self, snapshot: Snapshot) -> "Gallery":
        """Map the vectors that exist in ``snapshot``."""
        segments = snapshot.segments()
        mapped = [MappedVectors(self._path(s.name), s.rows, s.dim) for s in segments]
        ids = [snapshot.segment_ids(segment) for segment in segments]
        return Gallery(ids, mapped, snapshot.encoder().dim)

    def damages(self, snapshot: Snapshot) -> Iterator[Damage]:
        """Yield what is wrong with each segment file: missing, wrong shape, or altered bytes."""
        for segment in snapshot.segments():
            path = self._path(segment.name)
            try:
                MappedVectors(path, segment.rows, segment.dim)
            except CollectionDamaged as error:
                yield Damage(str(path), error.expected, error.found)
                continue
            digest = sha256_file(path)
            if digest != segment.sha256:
                yield Damage(str(path), f"sha256 {segment.sha256}", f"sha256 {digest}")

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.faiss"


class Gallery:
    """The vectors of all images at one instant.

    ``ids`` holds for each segment the image id of each row, -1 where no image uses the row.
    """

    def __init__(
        self, ids: Sequence[NDArray[np.int64]], vectors: Sequence[MappedVectors], dim: int
    ) -> None:
        self._segments = list(zip(ids, vectors, strict=True))
        self.dim = dim

    def __len__(self) -> int:
        return sum(int((ids >= 0).sum()) for ids, _ in self._segments)

    def search(self, queries: NDArray[np.float32], k: int) -> list[Nearest]:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32."""
        return search(checked_queries(queries, self.dim), self.blocks(), k)

    def blocks(self) -> Iterator[Block]:
        """Yield the ids and vectors of all images in the order of segments, in bounded pieces."""
        for ids, vectors in self._segments:
            for start, rows in vectors.blocks():
                block_ids = ids[start : start + len(rows)]
                live = block_ids >= 0
                yield (block_ids, rows) if live.all() else (block_ids[live], rows[live])
