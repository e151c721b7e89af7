"""The embeddings of a collection, searched by workers that have some segments each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, starmap
from pathlib import Path
from secrets import token_hex
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from imgsim.bucket import Bucket
from imgsim.cluster.cache import cache_of, make_room
from imgsim.cluster.ray_cluster import (
    LIFE,
    REPEATS,
    Question,
    answered,
    answers,
    answers_in_turn,
    kill,
    machines,
    near,
    told,
)
from imgsim.errors import ClusterError, ImgsimError, StoreError
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.index.segment_folder import SegmentFolder
from imgsim.index.topk import Candidates
from imgsim.index.vector_store import VectorStore
from imgsim.records import Segment, SegmentRows
from imgsim.results import SearchStats

_WORK = "work"  # the concurrency group of what workers do besides searching
_T = TypeVar("_T")
_I = TypeVar("_I")
_R = TypeVar("_R")
_WORKS = 2  # of these that each does at once


@dataclass(frozen=True)
class Sharded:
    """Where the segments of a collection are: in ``folder``, the same on all machines.

    If they are in a ``bucket``, a machine keeps copies of those that it searches, in a cache that
    takes up to ``cache_bytes``.
    """

    folder: Path
    bucket: Bucket | None = None
    cache_bytes: int = 0

    @contextmanager
    def lent(self, segment: Segment) -> Iterator[VectorStore]:
        """Lend a store that has a segment to who reads it once; a copy of it may go afterwards."""
        if self.bucket is None or SegmentFolder(self.folder).embeddings(segment.name).exists():
            yield VectorStore(self.folder, self.bucket)
            return
        make_room(_sizes([segment]), self.cache_bytes)
        with cache_of(f"{self.bucket.url} lent") as folder:  # what workers have stays with them
            yield VectorStore(folder, self.bucket)


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
        self._store = VectorStore(common.folder)
        self._cache = ExitStack()  # while its galleries are open
        self._galleries = dict[str, Gallery]()
        self._forgotten = set[str]()
        self._needed = dict[str, dict[str, int]]()  # bytes of segments by name, for each gallery

    def search(self, place: "Place", asked: "Asked") -> "Found":
        """Return the nearest of each query in a view."""
        try:
            return Found.of(self._opened(place).search(*asked))
        except ImgsimError:  # what is wrong may be mended when it is asked again
            self._close(place.key)
            if self._common.bucket is None:
                raise
        return Found.of(self._opened(place).search(*asked))  # if another has made room meanwhile

    def _opened(self, place: "Place") -> Gallery:
        if place.key in self._forgotten:
            raise StoreError("whoever asked has left")
        if place.key not in self._galleries:
            self._galleries[place.key] = self._gallery(place.key, place.view())
        return self._galleries[place.key]

    def forget(self, key: str) -> None:
        """Close the gallery of a view, which nobody may search any more."""
        self._forgotten.add(key)
        self._close(key)

    def _close(self, key: str) -> None:
        self._needed.pop(key, None)
        if key in self._galleries:
            self._galleries.pop(key).close()

    def _gallery(self, key: str, view: View) -> Gallery:
        if self._common.bucket is not None:
            self._needed[key] = _sizes([each.segment for each in view.rows])
            needed = {
                name: size for all_of in self._needed.values() for name, size in all_of.items()
            }
            self._cache.close()  # or nothing could go
            make_room(needed, self._common.cache_bytes)
            folder = self._cache.enter_context(cache_of(self._common.bucket.url))
            self._store = VectorStore(folder, self._common.bucket)
            self._store.renew_projection()
        return self._store.gallery(view.rows, view.dim, view.radius, _no_ids)

    def work(self, task: Callable[[Any, Any], Any], common: Sequence[Any], item: Any) -> Any:  # noqa: ANN401 - the task's
        """Do a task with the one thing in ``common``; it may ask all shards, this one too."""
        import ray  # noqa: PLC0415 - an extra

        return task(ray.get(common[0]), item)

    def is_there(self) -> bool:
        """Answer, also while it searches."""
        return True


def _sizes(segments: Iterable[Segment]) -> dict[str, int]:
    """Return how many bytes the files of segments take at most, by name."""
    return {each.name: 5 * each.rows * each.dim for each in segments}


class Asked(NamedTuple):
    """Queries (q, dim), and that the ``k`` nearest (None: all) within their limits (q,) count."""

    queries: NDArray[np.float32]
    k: int | None
    limits: NDArray[np.float64]


class Found(NamedTuple):
    """What is nearest to some queries (q,): ``counts`` to each, (n,) one after the other."""

    counts: NDArray[np.int64]
    ids: NDArray[np.int64]
    distances: NDArray[np.float64]
    stats: SearchStats

    @classmethod
    def of(cls, answer: Answer) -> "Found":
        """Return an answer as few arrays, which are soon sent."""
        ids, distances = map(np.concatenate, zip(*answer.nearest, strict=True))
        return cls(np.array([len(ids) for ids, _ in answer.nearest]), ids, distances, answer.stats)

    def candidates(self, queries: NDArray[np.int64]) -> Candidates:
        """Return what was found of the queries with these numbers (q,)."""
        return Candidates(np.repeat(queries, self.counts), self.ids, self.distances)


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


@dataclass(frozen=True, eq=False)
class _Replica:
    """A worker of a shard, a call that is answered once it has begun, and where it should be."""

    worker: Any
    begun: Any
    machine: str


class Team(NamedTuple):
    """Workers of which each can do the same: those that have ``begun``, and ``others``."""

    begun: Sequence[Any]
    others: Sequence[Any]

    def in_turn(self, turn: int) -> list[Any]:
        """Return them in the order in which they are asked in some turn."""
        first = turn % max(1, len(self.begun))
        return [*self.begun[first:], *self.begun[:first], *self.others]


class Shards:
    """The workers that search one collection, as long as there is a gallery that may use them.

    Segments are dealt out to up to ``most`` shards (0: as many as machines), and ``replicas``
    workers have each, on machines of their own, and on the same each time if they can: there are
    their copies. One that dies is started anew; what it was asked, another of its shard is asked,
    or itself again.
    """

    def __init__(
        self, join: Callable[[], ModuleType], common: Sharded, most: int, replicas: int
    ) -> None:
        self._join, self.common, self._most, self._replicas = join, common, most, replicas
        self._lock = Lock()
        self._users = self._turn = self._count = 0
        self._placed = dict[str, tuple[int, int]]()
        self._shown = dict[str, Sequence[SegmentRows]]()
        self._workers = dict[int, list[_Replica]]()

    def __len__(self) -> int:
        """Return how many shards have workers now."""
        return sum(map(bool, self._workers.values()))

    def enter(self) -> None:
        """Count somebody who may search, and will leave."""
        with self._lock:
            self._users += 1

    def leave(self, places: Sequence[Place]) -> None:
        """Let workers forget what was searched, or end them if nobody else may search."""
        with self._lock:
            self._users -= 1
            for place in places:
                del self._shown[place.key]
            shown = {each.segment.name for each in chain(*self._shown.values())}
            self._placed = {name: at for name, at in self._placed.items() if name in shown}
            workers = {place: self._workers.get(place.shard, ()) for place in places}
            ended = [] if self._users else [*chain(*self._workers.values())]
            if not self._users:
                self._workers, self._count = {}, 0
        with suppress(ValueError, ClusterError):  # where there is no cluster, they are gone, too
            if ended:
                kill(self._join(), [each.worker for each in ended])
            elif places:
                with told(self._join()):
                    for place, replicas in workers.items():
                        for each in replicas:
                            each.worker.forget.remote(place.key)

    def show(self, view: View) -> list[Place]:
        """Return where the parts of a view are searched."""
        ray = self._join()
        with self._lock, told(ray):
            self._count = max(self._count, self._most or len(machines(ray)) or 1)
            parts = deal_out(view.rows, self._placed, self._count)
            places = [
                Place(shard, token_hex(8), ray.put(replace(view, rows=rows)))
                for shard, rows in parts.items()
            ]
            self._shown |= {place.key: parts[place.shard] for place in places}
            return places

    def search(self, asked: Sequence[tuple[Place, Asked]]) -> list[Found]:
        """Return what parts of a view have of what they are asked.

        Raises :class:`ClusterError`; a later search starts others for workers that were lost.
        """
        ray = self._join()
        teams, turn = self.teams([place for place, _ in asked])
        questions = [question(*each, team, turn) for each, team in zip(asked, teams, strict=True)]
        return answers(ray, questions, self._lose)

    def each(
        self,
        places: Sequence[Place],
        task: Callable[[_T, _I], _R],
        common: _T,
        items: Iterable[_I],
    ) -> Iterator[_R]:
        """Let the workers of some places do ``task(common, item)`` for each of some items.

        Yields what comes of it, in any order. It may be done twice, where a worker dies. Raises
        :class:`ClusterError` as :meth:`search` does.
        """
        ray = self._join()
        with told(ray):
            shared = [ray.put(common)]  # in a list: Ray would wait for it before a worker may tell
        del common  # it may be large

        def asked(number: int, item: _I) -> Question:
            def ask(worker: Any) -> Any:  # noqa: ANN401 - Ray's
                return worker.work.options(concurrency_group=_WORK).remote(task, shared, item)

            begun, others = (chain(*each) for each in zip(*self.teams(places)[0], strict=True))
            return Question(Team([*begun], [*others]).in_turn(number), ask)

        at_once = _WORKS * self._replicas * len(places)
        questions = starmap(asked, enumerate(items))
        yield from answers_in_turn(ray, questions, self._lose, at_once)

    def teams(self, places: Sequence[Place]) -> tuple[list[Team], int]:
        """Return the workers of each of some places, and a number that grows with each call.

        Those that are missing are started.
        """
        ray = self._join()
        with self._lock, told(ray):
            if not self._users:
                raise ValueError("the searcher is closed")
            self._turn += 1
            turn, ready = self._turn, [self._ready(ray, place.shard) for place in places]
        with told(ray):
            begun = answered(ray, [[each.begun for each in replicas] for replicas in ready])
        return [
            Team(
                [each.worker for each in replicas if each.begun in known],
                [each.worker for each in replicas if each.begun not in known],
            )
            for replicas, known in zip(ready, begun, strict=True)
        ], turn

    def _lose(self, worker: Any) -> None:  # noqa: ANN401 - Ray's
        """End a worker that is of no use any more."""
        with self._lock:
            for shard, replicas in self._workers.items():
                self._workers[shard] = [each for each in replicas if each.worker is not worker]
        kill(self._join(), [worker])

    def _ready(self, ray: ModuleType, shard: int) -> list[_Replica]:
        """Return the workers of a shard; those that are missing are started."""
        replicas = self._workers.setdefault(shard, [])
        while len(replicas) < self._replicas:
            machine = _home(machines(ray), shard, [each.machine for each in replicas])
            start: Any = ray.remote(
                num_cpus=1,
                max_restarts=-1,
                max_task_retries=REPEATS if self._replicas == 1 else 0,
                concurrency_groups={LIFE: 1, _WORK: _WORKS},
                scheduling_strategy=near(machine) if machine else "SPREAD",
            )(Shard)
            worker = start.remote(self.common)
            begun = worker.is_there.options(concurrency_group=LIFE).remote()
            replicas.append(_Replica(worker, begun, machine))
        return [*replicas]


def _home(there: Sequence[str], shard: int, taken: Sequence[str]) -> str:
    """Return where one more worker of a shard should be, of the machines that are there, if any."""
    first = shard % max(1, len(there))
    turned = [*there[first:], *there[:first]]
    return next((each for each in turned if each not in taken), turned[0] if turned else "")


def question(place: Place, asked: Asked, team: Team, turn: int) -> Question:
    """Return the question what a place has, which each worker of a team can answer."""

    def ask(worker: Any) -> Any:  # noqa: ANN401 - Ray's
        return worker.search.remote(place, asked)

    return Question(team.in_turn(turn), ask)


def deal_out(
    rows: Sequence[SegmentRows], placed: dict[str, tuple[int, int]], shards: int
) -> dict[int, list[SegmentRows]]:
    """Return which rows each of so many shards searches, about as many embeddings each.

    A segment stays where it was ``placed``, by its name: a shard, and how many embeddings it has.
    Where others are, is noted there.
    """
    sizes, parts = [0] * shards, dict[int, list[SegmentRows]]()
    for shard, size in placed.values():
        sizes[shard] += size
    for each in sorted(rows, key=lambda each: -each.segment.rows):
        if each.segment.name not in placed:
            least = sizes.index(min(sizes))
            placed[each.segment.name] = least, each.segment.rows
            sizes[least] += each.segment.rows
        parts.setdefault(placed[each.segment.name][0], []).append(each)
    return parts


def _no_ids(segment: Segment) -> NDArray[np.int64]:
    raise StoreError(f"the ids of segment {segment.name} are missing; run `imgsim check --repair`")
