"""The embeddings of a collection, searched by workers that have some segments each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.bucket import Bucket
from imgsim.cluster.cache import cache_of, make_room
from imgsim.cluster.ray_cluster import LIFE, answers, kill, told
from imgsim.errors import ClusterError, StoreError
from imgsim.index.distance import Block, Nearest, checked_queries
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.index.vector_store import VectorStore
from imgsim.records import Segment, SegmentRows
from imgsim.results import SearchStats

_TRIES = 8  # of a worker, on whichever machine, and of what it was asked
_AT_ONCE = 1_024  # queries


@dataclass(frozen=True)
class Sharded:
    """What all shards have in common: the folder of the segments, the same on all machines.

    If they are in a ``bucket``, a machine keeps copies of those that it searches, in a cache that
    takes up to ``cache_bytes``. Embeddings have ``dim`` values, and those within ``radius`` of a
    query are found.
    """

    folder: Path
    dim: int
    radius: float
    bucket: Bucket | None = None
    cache_bytes: int = 0


class Shard:
    """What a worker searches: some segments."""

    def __init__(self, common: Sharded, rows: Sequence[SegmentRows]) -> None:
        self._opened = ExitStack()  # it lasts as long as the process
        store = self._store(common, rows)
        self._gallery: Gallery = store.gallery(rows, common.dim, common.radius, _no_ids)

    def _store(self, common: Sharded, rows: Sequence[SegmentRows]) -> VectorStore:
        """Return the store of these segments on this machine."""
        if common.bucket is None:
            return VectorStore(common.folder)
        segments = [each.segment for each in rows]
        make_room({each.name: 5 * each.rows * each.dim for each in segments}, common.cache_bytes)
        folder = self._opened.enter_context(cache_of(common.bucket.url))
        store = VectorStore(folder, common.bucket)
        store.renew_projection()
        return store

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest (None: all) of each of ``queries`` (q, dim)."""
        return self._gallery.search(queries, k)

    def is_there(self) -> bool:
        """Answer, also while it searches."""
        return True


class ShardedGallery:
    """The embeddings of all images that count, in up to so many shards (0: as many as machines).

    The first search joins the cluster, and starts a worker for each shard; Ray puts them on as many
    machines as it can. One that dies is started anew, and asked again. ``here`` opens the same
    embeddings in this process, which reads them for :meth:`blocks`.
    """

    def __init__(
        self,
        join: Callable[[], ModuleType],
        shards: int,
        common: Sharded,
        rows: Sequence[SegmentRows],
        here: Callable[[], Gallery],
    ) -> None:
        self.dim = common.dim
        self._join, self._most, self._common, self._here = join, shards, common, here
        self._rows = [each for each in rows if each.count]
        self._shards: list[Any] = []
        self._lock = Lock()

    def __len__(self) -> int:
        return sum(each.count for each in self._rows)

    def close(self) -> None:
        """End the workers; a later search begins with new ones."""
        with self._lock:
            shards, self._shards = self._shards, []
        if shards:
            with suppress(ValueError):  # the collection has left the cluster, and they with it
                kill(self._join(), shards)

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces."""
        with closing(self._here()) as gallery:
            yield from gallery.blocks()

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        queries = checked_queries(queries, self.dim)
        parts = [queries[at : at + _AT_ONCE] for at in range(0, len(queries), _AT_ONCE)]
        nearest, stats = list[Nearest](), SearchStats()
        try:
            for part in parts:
                found: list[Answer] = answers(self._join(), self._started(), partial(_ask, part, k))
                lists = zip(*(answer.nearest for answer in found), strict=True)
                nearest += [merged(each, k) for each in lists] or [merged((), k)] * len(part)
                stats = sum((answer.stats for answer in found), stats)
        except ClusterError:
            self.close()
            raise
        return Answer(nearest, replace(stats, queries=len(queries)))

    def _started(self) -> list[Any]:
        """Return the workers, which are started if they are not yet."""
        ray = self._join()
        with self._lock, told(ray):
            if not self._shards:
                machines = sum(node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())
                worker: Any = ray.remote(
                    num_cpus=1,
                    max_restarts=_TRIES,
                    max_task_retries=_TRIES,
                    concurrency_groups={LIFE: 1},
                    scheduling_strategy="SPREAD",
                )(Shard)
                parts = balanced(self._rows, self._most or machines or 1)
                self._shards = [worker.remote(self._common, part) for part in parts]
            return self._shards


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
