"""Candidates from a Milvus server, ranked by imgsim's own distances.

A server sorts all stored vectors x by squares D(x) that it computed in float32, and returns the
first m. Let D be the last of those, and let r be the distance within which all must be known: that
of the k-th candidate, computed in float64, or the radius of a search that has found fewer. FAISS,
which computes them there, takes squares of differences, or |q|^2 + |x|^2 - 2 q x. Either way the
sum of the magnitudes that are rounded is at most 2 (|q| + |x|)^2, so for dimension d and
u = 2^-24, by Higham, Accuracy and Stability of Numerical Algorithms, 3.1,

    |D(x) - |x - q|^2| <= 2 (d + 8) u (|q| + |x|)^2.

For |x - q| <= r that is at most E = 2 (d + 8) u (2 |q| + r)^2. So if r^2 + E < D, an x that was not
returned is beyond r, and the answer is certain. Else more candidates are asked for.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.cluster_options import MilvusSettings
from imgsim.errors import ExtraMissing, StoreError
from imgsim.index.distance import Block, Nearest, checked_queries, distances
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.records import SegmentRows
from imgsim.results import SearchStats

_MOST = 16_384  # that a server returns for a query
_LEAST = 64
_INSERTED = 1_000  # at once
_PATIENCE = 20.0  # seconds until a server must answer
_PATH_BYTES = 65_535
_UNIT = 2.0**-24


def state_of(rows: Iterable[SegmentRows]) -> str:
    """Return 16 digits that stand for the images that a collection has, and their embeddings."""
    digest = hashlib.sha256()
    for each in sorted(rows, key=lambda each: each.segment.name):
        digest.update(each.segment.name.encode() + each.excluded.tobytes())
    return digest.hexdigest()[:16]


class Milvus:
    """A server, and what it has of a collection whose state is this: a collection of its own."""

    def __init__(self, settings: MilvusSettings, state: str) -> None:
        self._settings = settings
        self.name = f"{settings.name}_{state}"
        try:
            import pymilvus  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ExtraMissing("Milvus needs pymilvus: `pip install 'imgsim[milvus]'`") from error
        self._pymilvus: Any = pymilvus
        token = os.environ.get("MILVUS_TOKEN", "")
        with self._asking():
            self._client: Any = pymilvus.MilvusClient(settings.uri, token=token, timeout=_PATIENCE)

    def close(self) -> None:
        """Leave the server."""
        self._client.close()

    def require(self) -> None:
        """Raise :class:`StoreError` unless the server has all of the collection as it is."""
        with self._asking():
            is_there = self._client.has_collection(self.name, timeout=_PATIENCE)
            if is_there:
                self._client.load_collection(self.name)
        if not is_there:
            raise StoreError(
                f"{self._settings.uri}: does not have the collection as it is now; run "
                "`imgsim export milvus`"
            )

    def fill(self, dim: int, blocks: Iterable[tuple[Block, Sequence[str]]]) -> None:
        """Store ids, embeddings and paths; only when all are there, it takes the others' place."""
        kinds = self._pymilvus.DataType
        schema = self._pymilvus.MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("path", kinds.VARCHAR, max_length=_PATH_BYTES)
        schema.add_field("embedding", kinds.FLOAT_VECTOR, dim=dim)
        index = self._pymilvus.MilvusClient.prepare_index_params()
        index.add_index("embedding", index_type="FLAT", metric_type="L2")
        unfinished = f"{self.name}_new"
        with self._asking():
            self._client.drop_collection(unfinished)
            self._client.create_collection(unfinished, schema=schema, index_params=index)
            for (ids, rows), paths in blocks:
                for start in range(0, len(ids), _INSERTED):
                    some = slice(start, start + _INSERTED)
                    told = zip(ids[some].tolist(), paths[some], rows[some], strict=True)
                    self._client.insert(
                        unfinished,
                        [{"id": i, "path": _text(path), "embedding": row} for i, path, row in told],
                    )
            self._client.drop_collection(self.name)
            self._client.rename_collection(unfinished, self.name)
            for other in self._client.list_collections():
                if other != self.name and other.startswith(f"{self._settings.name}_"):
                    self._client.drop_collection(other)

    def candidates(
        self, queries: NDArray[np.float32], most: int
    ) -> list[tuple[NDArray[np.int64], float]]:
        """Return for each query the ids of the nearest ``most``, and the last one's square.

        The square is infinite where these are all that there are.
        """
        with self._asking():
            found = self._client.search(
                self.name,
                data=list(queries),
                anns_field="embedding",
                limit=most,
                search_params={"metric_type": "L2"},
                consistency_level="Strong",
                timeout=_PATIENCE,
            )
        return [
            (
                np.array([hit["id"] for hit in hits], np.int64),
                float(hits[-1]["distance"]) if len(hits) >= most else np.inf,
            )
            for hits in found
        ]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise :class:`StoreError` for what the server says."""
        try:
            yield
        except self._pymilvus.MilvusException as error:
            said = str(error.message).splitlines()[0]
            raise StoreError(f"{self._settings.uri}: {said}") from error


class MilvusGallery:
    """The embeddings of images, of which a server names those that may be near.

    ``here`` has the same in this process, and their distances, of which those within ``radius``
    count. It decides alone where the server's candidates do not.
    """

    def __init__(self, server: Milvus, here: Gallery, radius: float) -> None:
        self.dim = here.dim
        self._server, self._here, self._radius = server, here, radius
        try:
            server.require()
        except StoreError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._here)

    def close(self) -> None:
        """Leave the server."""
        self._server.close()
        self._here.close()

    def blocks(self) -> Iterator[Block]:
        """Yield ids and embeddings of all images in the order of segments, in bounded pieces."""
        return self._here.blocks()

    def search(self, queries: NDArray[np.float32], k: int | None) -> Answer:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        queries = checked_queries(queries, self.dim)
        found, computed = dict[int, Nearest](), 0
        left, most = list(range(len(queries))), max(_LEAST, 2 * (k or 0))
        while left and k is not None and most <= _MOST:
            hits = self._server.candidates(queries[left], most)
            for number, (ids, last) in zip(left, hits, strict=True):
                nearest = self._certain(queries[number], ids, last, k)
                computed += len(ids)
                if nearest is not None:
                    found[number] = nearest
            left, most = [number for number in left if number not in found], 4 * most
        if left:
            answer = self._here.search(queries[left], k)
            found |= dict(zip(left, answer.nearest, strict=True))
            computed += answer.stats.distances
        stats = SearchStats(queries=len(queries), distances=computed)
        return Answer([found[number] for number in range(len(queries))], stats)

    def _certain(
        self, query: NDArray[np.float32], ids: NDArray[np.int64], last: float, k: int
    ) -> Nearest | None:
        """Return the nearest among candidates, or None if others may be as near."""
        ids, rows = self._here.pick(ids)
        found = distances(query, rows)
        within = found <= self._radius
        ids, found = ids[within], found[within]
        order = np.lexsort((ids, found))[:k]
        reach = found[order[-1]] if len(order) == k else self._radius
        length = 2 * float(np.linalg.norm(query.astype(np.float64))) + reach
        error = 2 * (self.dim + 8) * _UNIT * length**2
        if last < np.inf and not reach**2 + error < last:
            return None
        return ids[order], found[order]


def _text(path: str) -> str:
    """Return a path as text that a server takes: for people, as the id is what counts."""
    return os.fsencode(path).decode(errors="replace")[: _PATH_BYTES // 4]
