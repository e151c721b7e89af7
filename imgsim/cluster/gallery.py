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
from imgsim.cluster.shards import Place, Shards, Team, View, question
from imgsim.index.distance import Block, Nearest, checked_queries
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.results import SearchStats

_AT_ONCE = 1_024  # queries
_T = TypeVar("_T")
_I = TypeVar("_I")
_R = TypeVar("_R")


class ShardedGallery:
    """The embeddings of all images that count, which the workers of ``shards`` search.

    The first search joins the cluster. ``here`` opens the same embeddings in this process, which
    reads them for :meth:`blocks`.
    """

    def __init__(self, shards: Shards, view: View, here: Callable[[], Gallery]) -> None:
        self.dim = view.dim
        self._shards, self._here = shards, here
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
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces."""
        with closing(self._here()) as gallery:
            yield from gallery.blocks()

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        places = self._shown()
        return _searched(queries, self.dim, k, lambda part: self._shards.search(places, part, k))

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

        def ask(part: NDArray[np.float32]) -> list[Answer]:
            turn = random.randrange(1 << 16)
            pairs = zip(self.places, self.teams, strict=True)
            return answers(ray, [question(*each, turn, part, k) for each in pairs], lambda _: None)

        return _searched(queries, self.dim, k, ask)


def _searched(
    queries: NDArray[np.float32],
    dim: int,
    k: int | None,
    ask: Callable[[NDArray[np.float32]], list[Answer]],
) -> Answer:
    """Return the ``k`` nearest of each of ``queries``, by way of what all places answer."""
    queries = checked_queries(queries, dim)
    nearest, stats = list[Nearest](), SearchStats()
    for at in range(0, len(queries), _AT_ONCE):
        part = queries[at : at + _AT_ONCE]
        found = ask(part)
        lists = zip(*(answer.nearest for answer in found), strict=True)
        nearest += [merged(each, k) for each in lists] or [merged((), k)] * len(part)
        stats = sum((answer.stats for answer in found), stats)
    return Answer(nearest, replace(stats, queries=len(queries)))


def merged(found: Sequence[Nearest], k: int | None) -> Nearest:
    """Return the first ``k`` (None: all) of several lists, by distance and id."""
    ids = np.concatenate([ids for ids, _ in found]) if found else np.empty(0, np.int64)
    distances = np.concatenate([each for _, each in found]) if found else np.empty(0)
    order = np.lexsort((ids, distances))[:k]
    return ids[order], distances[order]
