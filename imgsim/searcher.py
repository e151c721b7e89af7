"""One instant of a collection, ready to be searched."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imgsim.directory import Directory
from imgsim.encoder.embed import Query, embed_images
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.files import absolute
from imgsim.images.roots import is_same_file
from imgsim.images.source import Images
from imgsim.index.search import Answer
from imgsim.jobs.nearest import Own, nearest_but
from imgsim.jobs.neighbours import matches, nearest_others
from imgsim.options import MAX_PIXELS, Damaged, DecodeRules, SearchFilter, checked_k
from imgsim.records import EncoderRecord
from imgsim.results import (
    EmbeddingMatches,
    ImageInfo,
    QueryResult,
    SearchResults,
    SearchStats,
)

_LOG = logging.getLogger(__name__)


class Searcher:
    """Answers queries about the images that a collection had when it was opened.

    What a search needs stays open between searches: the encoder, the mapped embeddings, a thread
    for each core. Several threads may search at the same time, but not while one closes or
    refreshes it. Use it as a context manager, or close it: until then, files that are no longer
    needed stay on the disk, and SQLite's log of later changes grows. A searcher that lives for long
    beside a writer should :meth:`refresh` now and then.
    """

    def __init__(
        self,
        directory: Directory,
        within: SearchFilter | None,
        load_encoder: Callable[[EncoderRecord], Encoder],
    ) -> None:
        self._directory = directory
        self._within = within or SearchFilter()
        self._load_encoder = load_encoder
        self._loaded: Encoder | None = None
        self._lock = Lock()  # a snapshot is one connection to the catalog
        self._open()

    def _open(self) -> None:
        began = time.perf_counter()
        with ExitStack() as opening:
            self._snapshot = opening.enter_context(self._directory.reading())
            self._record, self._loaded = self._snapshot.encoder(), None
            gallery = self._directory.gallery(self._snapshot, self._within)
            self._gallery = opening.enter_context(gallery)
            self._opened = opening.pop_all()
        self._is_closed = False
        _LOG.debug("opened %d images in %.1f ms", len(self), _milliseconds(began))

    def close(self) -> None:
        """Release what is open; a search raises ValueError from then on."""
        self._is_closed = True
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images that count."""
        return len(self._gallery)

    @property
    def dim(self) -> int:
        """Return the number of values of an embedding."""
        return self._gallery.dim

    def refresh(self) -> None:
        """Go on with the collection as it is now; no search may be under way."""
        self.close()
        self._open()

    def search(
        self,
        images: Images,
        k: int | None = 10,
        on_error: Callable[[ImageError], None] | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        damaged: Damaged = "refuse",
    ) -> SearchResults:
        """Return for each image its ``k`` nearest stored images (None: all), nearest first.

        Images are one or several. An image is a path, the bytes of a file, a Pillow image, or
        uint8 pixels (height, width), (height, width, 3) or (height, width, 4). One that cannot be
        decoded raises its :class:`ImageError`; with ``on_error``, the error is handed over and it
        has no result. One of more than ``max_pixels`` cannot, nor without ``damaged`` "accept" one
        of which not all pixels are there; see :class:`IngestSettings`.
        """
        self._refuse_if_closed()
        k, began = checked_k(k), time.perf_counter()
        encoder = self._encoder()
        _LOG.debug("the encoder is there after %.1f ms", _milliseconds(began))
        began = time.perf_counter()
        hashed = self._within.no_self or self._within.distinct
        rules = DecodeRules(max_pixels, accept_damaged=damaged == "accept")
        queries, embeddings = embed_images(images, encoder, on_error, rules, hashed=hashed)
        if not queries:
            return SearchResults((), SearchStats())
        _LOG.debug("encoded %d images in %.1f ms", len(queries), _milliseconds(began))
        began = time.perf_counter()
        answer = self._nearest(embeddings, k, queries)
        _LOG.debug("searched for them in %.1f ms", _milliseconds(began))
        with self._lock:
            found = matches(self._snapshot, answer.nearest)
        names = (query.name for query in queries)
        return SearchResults(tuple(map(QueryResult, names, found)), answer.stats)

    def search_embeddings(
        self, embeddings: NDArray[np.float32], k: int | None = 10
    ) -> EmbeddingMatches:
        """Return the ``k`` nearest stored images (None: all) of embeddings (q, dim) float32.

        Raises ValueError if they are not that, or not finite.
        """
        self._refuse_if_closed()
        k = checked_k(k)
        return _as_arrays(self._nearest(np.asarray(embeddings), k), k)

    def search_ids(self, ids: Sequence[int], k: int | None = 10) -> EmbeddingMatches:
        """Return the ``k`` nearest others (None: all) of stored images.

        Raises ValueError for an id that no stored image has.
        """
        self._refuse_if_closed()
        k, numbers = checked_k(k), np.asarray(ids)
        if not numbers.size:
            return _as_arrays(Answer([], SearchStats()), k)
        rows = self.embeddings(ids)
        contents = self._contents if self._within.distinct else None
        return _as_arrays(
            nearest_others(self._gallery, numbers.astype(np.int64), rows, k, contents), k
        )

    def embeddings(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings (n, dim) of stored images.

        Raises ValueError for an id that no stored image has.
        """
        self._refuse_if_closed()
        numbers = np.asarray(ids)
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"ids must be integers in a row, not {numbers.shape} {numbers.dtype}")
        numbers = numbers.astype(np.int64)
        with self._lock:
            places = self._snapshot.places(numbers.tolist())
        unknown = [number for number in numbers.tolist() if number not in places]
        if unknown:
            raise ValueError(f"no stored image has the id {unknown[0]}")
        with self._lock:
            return self._directory.store.embeddings(
                [places[number] for number in numbers.tolist()], self._snapshot.segment_ids
            )

    def images(self, ids: Sequence[int]) -> dict[int, ImageInfo]:
        """Return what is known of those of the images with these ids that are stored, by id."""
        self._refuse_if_closed()
        with self._lock:
            found = self._snapshot.records(ids)
        return {
            number: ImageInfo(number, each.path, each.width, each.height, each.size, each.damaged)
            for number, each in found.items()
        }

    def _nearest(
        self, embeddings: NDArray[np.float32], k: int | None, queries: Sequence[Query] = ()
    ) -> Answer:
        """Return the nearest of embeddings (q, dim), which may be those of some images."""
        within = self._within
        if not (within.no_self or within.distinct):
            return self._gallery.search(embeddings, k)
        own = [self._own(query) for query in queries] or [Own()] * len(embeddings)
        contents = self._contents if within.distinct else None
        return nearest_but(self._gallery, embeddings, k, own, contents)

    def _own(self, query: Query) -> Own:
        """Return what the filter leaves out of the nearest of an image."""
        images = set[int]()
        if self._within.no_self:
            with self._lock:
                images.add(self._snapshot.id_at(absolute(query.name)) or 0)
                alike = self._snapshot.with_content(query.content) if query.content else ()
            images |= {each.id for each in alike if is_same_file(each.path, query.name)}
        return Own(frozenset(images), query.content if self._within.distinct else None)

    def _contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        with self._lock:
            return self._snapshot.contents(ids)

    def _encoder(self) -> Encoder:
        """Return the encoder of this instant, which stays loaded."""
        if self._loaded is None:
            self._loaded = self._load_encoder(self._record)
        return self._loaded

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ValueError("the searcher is closed")


def _milliseconds(began: float) -> float:
    return 1e3 * (time.perf_counter() - began)


def _as_arrays(answer: Answer, k: int | None) -> EmbeddingMatches:
    """Return results as arrays of ``k`` columns, or as many as needed, filled up."""
    most = k or max((len(ids) for ids, _ in answer.nearest), default=0)
    numbers = np.full((len(answer.nearest), most), -1, np.int64)
    distances = np.full((len(answer.nearest), most), np.inf)
    for row, (ids, true) in enumerate(answer.nearest):
        numbers[row, : len(ids)], distances[row, : len(ids)] = ids, true
    return EmbeddingMatches(numbers, distances, answer.stats)
