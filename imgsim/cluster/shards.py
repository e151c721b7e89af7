"""The embeddings of a collection, searched by workers that have some segments each."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.cluster.ray_cluster import answers
from imgsim.errors import StoreError
from imgsim.index.distance import Nearest, checked_queries
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.index.vector_store import VectorStore
from imgsim.records import Segment, SegmentRows
from imgsim.results import SearchStats

_TRIES = 8  # of a worker, on whichever machine, and of what it was asked
_AT_ONCE = 1_024  # queries


class Shard:
    """What a worker searches: some segments, whose files lie in the same folder everywhere."""

    def __init__(self, folder: Path, rows: Sequence[SegmentRows], dim: int, radius: float) -> None:
        self._gallery: Gallery = VectorStore(folder).gallery(rows, dim, radius, _no_ids)

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest (None: all) of each of ``queries`` (q, dim)."""
        return self._gallery.search(queries, k)

    def is_there(self) -> bool:
        """Answer, also while it searches."""
        return True


class ShardedGallery:
    """The embeddings of all images that count, in up to so many shards, a worker each.

    Ray puts them on as many machines as it can. One that dies is started anew, and asked again.
    """

    def __init__(
        self,
        ray: ModuleType,
        folder: Path,
        rows: Sequence[SegmentRows],
        shape: tuple[int, int],
        radius: float,
    ) -> None:
        self._ray = ray
        self._count = sum(each.count for each in rows)
        shards, self.dim = shape
        worker: Any = ray.remote(
            num_cpus=1,
            max_restarts=_TRIES,
            max_task_retries=_TRIES,
            max_concurrency=2,  # a search, and whether it is there
            scheduling_strategy="SPREAD",
        )(Shard)
        parts = balanced([each for each in rows if each.count], shards)
        self._shards = [worker.remote(folder, part, self.dim, radius) for part in parts]

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """End the workers."""
        for shard in self._shards:
            self._ray.kill(shard)

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        queries = checked_queries(queries, self.dim)
        parts = [queries[at : at + _AT_ONCE] for at in range(0, len(queries), _AT_ONCE)]
        nearest, stats = list[Nearest](), SearchStats()
        for part in parts:
            ask = partial(_ask, part, k)
            found: list[Answer] = answers(self._ray, self._shards, ask)
            lists = zip(*(answer.nearest for answer in found), strict=True)
            nearest += [merged(each, k) for each in lists] or [merged((), k)] * len(part)
            stats = sum((answer.stats for answer in found), stats)
        return Answer(nearest, replace(stats, queries=len(queries)))


def _ask(queries: NDArray[np.float32], k: int | None, shard: Any) -> Any:  # noqa: ANN401 - Ray's
    return shard.search.remote(queries, k)


def balanced(rows: Sequence[SegmentRows], shards: int) -> list[list[SegmentRows]]:
    """Return the segments in up to so many parts, of about as many embeddings each."""
    parts: list[list[SegmentRows]] = [[] for _ in range(min(shards, len(rows)))]
    sizes = [0] * len(parts)
    for each in sorted(rows, key=lambda each: -each.segment.rows):
        least = sizes.index(min(sizes))
        parts[least].append(each)
        sizes[least] += each.segment.rows
    return parts


def merged(found: Sequence[Nearest], k: int | None) -> Nearest:
    """Return the first ``k`` (None: all) of several lists, by distance and id."""
    ids = np.concatenate([ids for ids, _ in found]) if found else np.empty(0, np.int64)
    distances = np.concatenate([each for _, each in found]) if found else np.empty(0)
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]


def _no_ids(segment: Segment) -> NDArray[np.int64]:
    raise StoreError(f"the ids of segment {segment.name} are missing; run `imgsim check --repair`")
