"""The embeddings of a collection, as this process and its workers see what shards search."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imgsim.cluster.ray_cluster import answers
from imgsim.cluster.shards import Asked, Found, Place, Shards, Team, View, question
from imgsim.index.distance import Block, Nearest, checked_queries
from imgsim.index.search import Answer
from imgsim.index.topk import NONE, TopKRequest
from imgsim.index.vector_store import IdsOf
from imgsim.results import SearchStats

_AT_ONCE = 1_024  # queries
_SHARE = 64  # queries that a place is asked for first, at least
_SOME = 8  # places that are asked first, at least, if not all are: the others wait meanwhile
_T = TypeVar("_T")
_I = TypeVar("_I")
_R = TypeVar("_R")


class ShardedGallery:
    """The embeddings of all images that count, which the workers of ``shards`` search.

    The first search joins the cluster. ``ids_of`` is asked as by ``VectorStore.gallery``.
    """

    def __init__(self, shards: Shards, view: View, ids_of: IdsOf) -> None:
        self.dim = view.dim
        self._shards, self._ids_of = shards, ids_of
        self._view = replace(view, rows=[each for each in view.rows if each.count])
        self._lock = Lock()
        self._is_closed = False
        self._places: list[Place] | None = None
        shards.enter()

    def __len__(self) -> int:
        return sum(each.count for each in self._view.rows)

    def close(self) -> None:
        """Leave the workers, which end if no other gallery may use them."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            self._shards.leave(self._places or ())

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces.

        This process reads them. Of a bucket it has copies of one segment at a time.
        """
        for each in self._view.rows:
            with (
                self._shards.common.lent(each.segment) as store,
                closing(store.gallery([each], self.dim, np.inf, self._ids_of)) as gallery,
            ):
                yield from gallery.blocks()

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        return _searched(checked_queries(queries, self.dim), k, self._shown(), self._shards.search)

    def remote(self) -> "RemoteGallery":
        """Return the same embeddings as workers can search them."""
        places = self._shown()
        return RemoteGallery(self.dim, places, self._shards.teams(places)[0])

    def each(self, task: Callable[[_T, _I], _R], common: _T, items: Iterable[_I]) -> Iterator[_R]:
        """Let workers do something; see :meth:`Shards.each`."""
        return self._shards.each(self._shown(), task, common, items)

    def _shown(self) -> list[Place]:
        """Return where the embeddings are searched, since the first search."""
        with self._lock:
            if self._places is None:
                self._places = self._shards.show(self._view)
            return self._places


@dataclass(frozen=True, eq=False)
class RemoteGallery:
    """The embeddings that teams of workers have in some places, as one worker searches them."""

    dim: int
    places: Sequence[Place]
    teams: Sequence[Team]

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        import ray  # noqa: PLC0415 - an extra

        teams = dict(zip(self.places, self.teams, strict=True))

        def ask(asked: Sequence[tuple[Place, Asked]]) -> list[Found]:
            turn = random.randrange(1 << 16)
            questions = [question(*each, teams[each[0]], turn) for each in asked]
            return answers(ray, questions, lambda _: None)

        return _searched(checked_queries(queries, self.dim), k, self.places, ask)


_Ask = Callable[[Sequence[tuple[Place, Asked]]], list[Found]]


def _searched(
    queries: NDArray[np.float32], k: int | None, places: Sequence[Place], ask: _Ask
) -> Answer:
    """Return the ``k`` nearest of each of ``queries``, by way of what all places answer."""
    nearest, stats = list[Nearest](), SearchStats()
    for at in range(0, len(queries), _AT_ONCE):
        part = queries[at : at + _AT_ONCE]
        request, best = TopKRequest(part, k, np.full(len(part), np.inf)), NONE
        for shares in _rounds(len(part), k, len(places)):
            asked = [Asked(part[mine], k, request.limits[mine]) for mine in shares]
            found = ask([*zip(places, asked, strict=False)])
            candidates = map(Found.candidates, found, shares)
            best = request.best(best, *candidates)
            request.tighten(request.limits, best)
            stats = sum((each.stats for each in found), stats)
        nearest += request.split(best)
    return Answer(nearest, replace(stats, queries=len(queries)))


def _rounds(count: int, k: int | None, places: int) -> list[list[NDArray[np.int64]]]:
    """Return for each round which of so many queries each place is asked, or the first places.

    The ``k``-th that a place finds in the first round is the limit of such a query in the second.
    """
    queries = np.arange(count)
    some = min(places, count // _SHARE)
    if k is None or some < max(2, min(places, _SOME)):
        return [[queries] * places]
    owners = queries % some
    first = [queries[owners == place] for place in range(some)]
    return [first, [queries[owners != place] for place in range(places)]]
