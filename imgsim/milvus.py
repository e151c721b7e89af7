"""Candidates from a Milvus server, ranked by imgsim's own distances.

A server sorts all stored vectors x by squares D(x) that it computed in float32, and returns the
first m. Let D be the last of those, and let r be the distance within which all must be known: that
of the k-th candidate, computed in float64, or the radius of a search that has found fewer. FAISS,
which computes them there, takes squares of differences, or |q|^2 + |x|^2 - 2 q x. Either way the
sum of the magnitudes that are rounded is at most 2 (|q| + |x|)^2, so for dimension d and
u = 2^-24, by Higham, Accuracy and Stability of Numerical Algorithms, 3.1,

    |D(x) - |x - q|^2| <= 2 (d + 8) u (|q| + |x|)^2.

For |x - q| <= r that is at most E = 2 (d + 8) u (2 |q| + r)^2. So if r^2 + E < D, an x that was not
returned is beyond r, and the answer is certain. Else more candidates are asked for. That the server
computes so is not taken for granted: the D of each candidate is compared with its own square, and
where one is further off, imgsim searches by itself.
"""

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim.cluster_options import MilvusSettings
from imgsim.errors import ExtraMissing, StoreError
from imgsim.index.distance import Block, Nearest, checked_queries, distances
from imgsim.index.gallery import Gallery
from imgsim.index.search import Answer
from imgsim.results import SearchStats

_MOST = 16_384  # that a server returns for a query
_LEAST = 64
_INSERTED = 1_000  # at once
_PATIENCE = 60.0  # seconds until a server must answer
_PATH_BYTES = 65_535
_GRACE = 10.0  # seconds, twice as many as a `Bounded` search may lag behind
_HITS = 1 << 16  # that are asked for at once
_LONGEST = 1e15  # a query may be; squares beyond are too great for float32
_UNIT = 2.0**-24
_LOG = logging.getLogger(__name__)


class Milvus:
    """A server, and the collection that it has of the one in ``folder``, whose state is this."""

    def __init__(self, settings: MilvusSettings, folder: Path, state: str) -> None:
        self._settings = settings
        own = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
        self._prefix = f"{settings.name}_{own}_"
        self.name = f"{self._prefix}{state}"
        try:
            import grpc  # noqa: PLC0415 - it comes with pymilvus
            import pymilvus  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ExtraMissing("Milvus needs pymilvus: `pip install 'imgsim[milvus]'`") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it prints tracebacks
        self._pymilvus: Any = pymilvus
        self._counted = math.inf
        self._failures: tuple[type[Exception], ...] = pymilvus.MilvusException, grpc.RpcError
        token = os.environ.get("MILVUS_TOKEN", "")
        with self._asking():
            self._client: Any = pymilvus.MilvusClient(settings.uri, token=token, timeout=_PATIENCE)

    def close(self) -> None:
        """Leave the server."""
        self._client.close()

    def require(self, total: int) -> None:
        """Raise :class:`StoreError` unless the server has all images of the collection, so many."""
        with self._asking():
            count = 0
            if self._client.has_collection(self.name, timeout=_PATIENCE):
                self._client.load_collection(self.name)
                (found,) = self._client.query(
                    self.name, output_fields=["count(*)"], consistency_level="Strong"
                )
                count = found["count(*)"]
        self._counted = time.monotonic()
        if count != total:
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
            ours = re.compile(rf"{self._prefix}[0-9a-f]{{16}}(_new)?")
            for other in self._client.list_collections():
                if other != self.name and ours.fullmatch(other):
                    self._client.drop_collection(other)

    def candidates(
        self, queries: NDArray[np.float32], most: int
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return for each query the ids of the nearest ``most``, and their squares."""
        found: list[Any] = []
        level = "Strong" if time.monotonic() - self._counted < _GRACE else "Bounded"
        step = max(1, _HITS // most)
        for start in range(0, len(queries), step):
            with self._asking():
                found += self._client.search(
                    self.name,
                    data=list(queries[start : start + step]),
                    anns_field="embedding",
                    limit=most,
                    search_params={"metric_type": "L2"},
                    consistency_level=level,
                    timeout=_PATIENCE,
                )
        return [
            (
                np.array([hit["id"] for hit in hits], np.int64),
                np.array([hit["distance"] for hit in hits], np.float64),
            )
            for hits in found
        ]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise :class:`StoreError` for what the server says."""
        try:
            yield
        except self._failures as error:
            lines = str(getattr(error, "message", error)).strip().splitlines()
            said = lines[0] if lines else type(error).__name__
            raise StoreError(f"{self._settings.uri}: {said}") from error


class MilvusGallery:
    """The embeddings of images, of which a server names those that may be near.

    The server has ``total``. ``here`` has those that count, and their distances, of which those
    within ``radius`` count. It decides alone where the server's candidates do not.
    """

    def __init__(self, server: Milvus, here: Gallery, radius: float, total: int) -> None:
        self.dim = here.dim
        self._server, self._here = server, here
        self._radius, self._total = radius, total

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
            for number, (ids, squares) in zip(left, hits, strict=True):
                nearest = self._certain(queries[number], ids, squares, k)
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
        self,
        query: NDArray[np.float32],
        ids: NDArray[np.int64],
        squares: NDArray[np.float64],
        k: int,
    ) -> Nearest | None:
        """Return the nearest among candidates, or None if others may be as near."""
        length = np.linalg.norm(query.astype(np.float64))
        if not len(ids) or not length < _LONGEST:
            return None
        picked, rows = self._here.pick(ids)
        found = distances(query, rows)
        order = np.argsort(ids)
        told = squares[order[np.searchsorted(ids, picked, sorter=order)]]
        if (np.abs(told - found**2) > self._rounding(length, found)).any():
            _LOG.warning(
                "%s: its squares are not those of float32; imgsim searches", self._server.name
            )
            return None
        within = found <= self._radius
        picked, found = picked[within], found[within]
        order = np.lexsort((picked, found))[:k]
        reach = self._radius if len(order) < k else found[order[-1]]
        if len(ids) < self._total and (
            reach > _LONGEST or not reach**2 + self._rounding(length, reach) < squares.max()
        ):
            return None
        return picked[order], found[order]

    def _rounding(self, length: Any, reach: Any) -> Any:  # noqa: ANN401 - numbers, or arrays of them
        """Return the E above, for a query of this length."""
        return 2 * (self.dim + 8) * _UNIT * (2 * length + reach) ** 2


def _text(path: str) -> str:
    """Return a path as text that a server takes: for people, as the id is what counts."""
    return os.fsencode(path).decode(errors="replace")[: _PATH_BYTES // 4]
