"""The embeddings of a collection, searched by workers that have some segments each."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from secrets import token_hex
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.bucket import Bucket
from imgsim.cluster.cache import cache_of, make_room
from imgsim.cluster.ray_cluster import LIFE, Question, answers, kill, told
from imgsim.errors import ClusterError, StoreError
from imgsim.index.distance import Block, Nearest, checked_queries
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.index.vector_store import VectorStore
from imgsim.records import Segment, SegmentRows
from imgsim.results import SearchStats

_TRIES = 8  # of a worker, on whichever machine, and of what it was asked
_AT_ONCE = 1_024  # queries
_OPEN = 8  # views that a worker keeps


@dataclass(frozen=True)
class Sharded:
    """Where the segments of a collection are: in ``folder``, the same on all machines.

    If they are in a ``bucket``, a machine keeps copies of those that it searches, in a cache that
    takes up to ``cache_bytes``.
    """

    folder: Path
    bucket: Bucket | None = None
    cache_bytes: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """Some rows of segments, with ``dim`` values; those within ``radius`` of a query are found."""

    rows: Sequence[SegmentRows]
    dim: int
    radius: float


class Shard:
    """A worker, which searches what it is shown of some segments."""

    def __init__(self, common: Sharded) -> None:
        self._common = common
        self._opened = ExitStack()  # it lasts as long as the process
        self._store = VectorStore(common.folder)
        if common.bucket is not None:
            folder = self._opened.enter_context(cache_of(common.bucket.url))
            self._store = VectorStore(folder, common.bucket)
        self._galleries = OrderedDict[str, Gallery]()

    def search(self, place: "Place", queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest (None: all) of each of ``queries`` (q, dim) in a view."""
        if place.key not in self._galleries:
            self._galleries[place.key] = self._gallery(place.view())
        self._galleries.move_to_end(place.key)
        while len(self._galleries) > _OPEN:
            self._galleries.popitem(last=False)[1].close()
        return self._galleries[place.key].search(queries, k)

    def _gallery(self, view: View) -> Gallery:
        if self._common.bucket is not None:
            segments = [each.segment for each in view.rows]
            needed = {each.name: 5 * each.rows * each.dim for each in segments}
            make_room(needed, self._common.cache_bytes)
            self._store.renew_projection()
        return self._store.gallery(view.rows, view.dim, view.radius, _no_ids)

    def is_there(self) -> bool:
        """Answer, also while it searches."""
        return True


@dataclass(frozen=True, eq=False)
class Place:
    """The part of a view that a shard searches: Ray has it as ``shown``, and workers by its key."""

    shard: int
    key: str
    shown: Any

    def view(self) -> View:
        """Return the part of the view, in a worker."""
        import ray  # noqa: PLC0415 - an extra

        view: View = ray.get(self.shown)
        return view


class Shards:
    """The workers that search one collection, as long as there is a gallery that uses them.

    Segments are dealt out to up to ``most`` shards (0: as many as machines), and ``replicas``
    workers have each. Ray puts them on as many machines as it can. A worker that dies is started
    anew; what it was asked, another of its shard is asked, or itself again.
    """

    def __init__(
        self, join: Callable[[], ModuleType], common: Sharded, most: int, replicas: int
    ) -> None:
        self._join, self._common, self._most, self._replicas = join, common, most, replicas
        self._lock = Lock()
        self._users = self._turn = 0
        self._placed = dict[str, int]()
        self._workers = dict[int, list[Any]]()

    def __len__(self) -> int:
        """Return how many shards have workers now."""
        return len(self._workers)

    def enter(self, view: View) -> list[Place]:
        """Return where the parts of a view are searched; who asks will leave."""
        ray = self._join()
        with self._lock, told(ray):
            if not self._users:
                machines = sum(node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())
                self._placed, self._count = {}, self._most or machines or 1
            parts = deal_out(view.rows, self._placed, self._count)
            self._users += 1
            return [
                Place(shard, token_hex(8), ray.put(replace(view, rows=rows)))
                for shard, rows in parts.items()
            ]

    def leave(self) -> None:
        """End the workers if no other gallery uses them."""
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            self.end()

    def end(self) -> None:
        """End the workers; a later search begins with new ones."""
        with self._lock:
            workers, self._workers = [*chain(*self._workers.values())], {}
        if workers:
            with suppress(ValueError):  # the collection has left the cluster, and they with it
                kill(self._join(), workers)

    def search(
        self, places: Sequence[Place], queries: NDArray[np.float32], k: int | None
    ) -> list[Answer]:
        """Return what each part of a view has for ``queries`` (q, dim): the ``k`` nearest."""
        ray = self._join()
        with self._lock, told(ray):
            self._turn += 1
            questions = [
                Question(self._ready(ray, place.shard), partial(_ask, place, queries, k))
                for place in places
            ]
        return answers(ray, questions)

    def _ready(self, ray: ModuleType, shard: int) -> list[Any]:
        """Return the workers of a shard, another one first each time; start them if need be."""
        if shard not in self._workers:
            worker: Any = ray.remote(
                num_cpus=1,
                max_restarts=_TRIES,
                max_task_retries=_TRIES if self._replicas == 1 else 0,
                concurrency_groups={LIFE: 1},
                scheduling_strategy="SPREAD",
            )(Shard)
            self._workers[shard] = [worker.remote(self._common) for _ in range(self._replicas)]
        workers, first = self._workers[shard], self._turn % self._replicas
        return workers[first:] + workers[:first]


class ShardedGallery:
    """The embeddings of all images that count, which the workers of ``shards`` search.

    The first search joins the cluster. ``here`` opens the same embeddings in this process, which
    reads them for :meth:`blocks`.
    """

    def __init__(self, shards: Shards, view: View, here: Callable[[], Gallery]) -> None:
        self.dim = view.dim
        self._shards, self._here = shards, here
        self._view = replace(view, rows=[each for each in view.rows if each.count])
        self._places: list[Place] | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return sum(each.count for each in self._view.rows)

    def close(self) -> None:
        """Leave the workers, which end if no other gallery uses them."""
        with self._lock:
            places, self._places = self._places, None
        if places is not None:
            self._shards.leave()

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces."""
        with closing(self._here()) as gallery:
            yield from gallery.blocks()

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        queries = checked_queries(queries, self.dim)
        parts = [queries[at : at + _AT_ONCE] for at in range(0, len(queries), _AT_ONCE)]
        nearest, stats = list[Nearest](), SearchStats()
        with self._lock:
            if self._places is None:
                self._places = self._shards.enter(self._view)
            places = self._places
        try:
            for part in parts:
                found = self._shards.search(places, part, k)
                lists = zip(*(answer.nearest for answer in found), strict=True)
                nearest += [merged(each, k) for each in lists] or [merged((), k)] * len(part)
                stats = sum((answer.stats for answer in found), stats)
        except ClusterError:
            self._shards.end()
            raise
        return Answer(nearest, replace(stats, queries=len(queries)))


def _ask(place: Place, queries: NDArray[np.float32], k: int | None, worker: Any) -> Any:  # noqa: ANN401 - Ray's
    return worker.search.remote(place, queries, k)


def deal_out(
    rows: Sequence[SegmentRows], placed: dict[str, int], shards: int
) -> dict[int, list[SegmentRows]]:
    """Return which rows each of so many shards searches, about as many embeddings each.

    A segment stays where it was ``placed``, by its name; where others are, is noted there.
    """
    sizes, parts = [0] * shards, dict[int, list[SegmentRows]]()
    known = [each for each in rows if each.segment.name in placed]
    others = [each for each in rows if each.segment.name not in placed]
    for each in known + sorted(others, key=lambda each: -each.segment.rows):
        shard = placed.setdefault(each.segment.name, sizes.index(min(sizes)))
        sizes[shard] += each.segment.rows
        parts.setdefault(shard, []).append(each)
    return parts


def merged(found: Sequence[Nearest], k: int | None) -> Nearest:
    """Return the first ``k`` (None: all) of several lists, by distance and id."""
    ids = np.concatenate([ids for ids, _ in found]) if found else np.empty(0, np.int64)
    distances = np.concatenate([each for _, each in found]) if found else np.empty(0)
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]


def _no_ids(segment: Segment) -> NDArray[np.int64]:
    raise StoreError(f"the ids of segment {segment.name} are missing; run `imgsim check --repair`")
