"""What answers queries about one collection, and stays warm."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imgsim.directory import Directory
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.images.source import Images
from imgsim.index.search import Answer
from imgsim.options import MAX_PIXELS, Damaged, DecodeRules, SearchFilter, checked_k
from imgsim.reading import Reading
from imgsim.records import EncoderRecord
from imgsim.results import (
    EmbeddingMatches,
    ImageInfo,
    QueryResult,
    SearchResults,
    SearchStats,
)


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
        within = within or SearchFilter()
        self._open = partial(Reading, directory, within, load_encoder)
        self._reading = self._open()
        self._is_closed = False

    def close(self) -> None:
        """Release what is open; a search raises ValueError from then on."""
        self._is_closed = True
        self._reading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images that count."""
        return len(self._reading)

    @property
    def dim(self) -> int:
        """Return the number of values of an embedding."""
        return self._reading.encoder.dim

    def refresh(self) -> None:
        """Go on with the collection as it is now; no search may be under way."""
        former, self._reading = self._reading, self._open()
        former.close()
        self._is_closed = False

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
        k = checked_k(k)
        rules = DecodeRules(max_pixels, accept_damaged=damaged == "accept")
        queries, embeddings = self._opened().embed(images, on_error, rules)
        if not queries:
            return SearchResults((), SearchStats())
        answer = self._reading.nearest(embeddings, k, queries)
        names = (query.name for query in queries)
        found = self._reading.matches(answer.nearest)
        return SearchResults(tuple(map(QueryResult, names, found)), answer.stats)

    def search_embeddings(
        self, embeddings: NDArray[np.float32], k: int | None = 10
    ) -> EmbeddingMatches:
        """Return the ``k`` nearest stored images (None: all) of embeddings (q, dim) float32.

        Raises ValueError if they are not that, or not finite.
        """
        k = checked_k(k)
        return _as_arrays(self._opened().nearest(np.asarray(embeddings), k), k)

    def search_ids(self, ids: Sequence[int], k: int | None = 10) -> EmbeddingMatches:
        """Return the ``k`` nearest others (None: all) of stored images.

        Raises ValueError for an id that no stored image has.
        """
        k, reading = checked_k(k), self._opened()
        if not np.asarray(ids).size:
            return _as_arrays(Answer([], SearchStats()), k)
        return _as_arrays(reading.nearest_others(_checked_ids(ids), k), k)

    def embeddings(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings (n, dim) of stored images.

        Raises ValueError for an id that no stored image has.
        """
        return self._opened().embeddings(_checked_ids(ids))

    def images(self, ids: Sequence[int]) -> dict[int, ImageInfo]:
        """Return what is known of those of the images with these ids that are stored, by id."""
        return self._opened().images(ids)

    def _opened(self) -> Reading:
        if self._is_closed:
            raise ValueError("the searcher is closed")
        return self._reading


def _checked_ids(ids: Sequence[int]) -> NDArray[np.int64]:
    numbers = np.asarray(ids)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"ids must be integers in a row, not {numbers.shape} {numbers.dtype}")
    return numbers.astype(np.int64)


def _as_arrays(answer: Answer, k: int | None) -> EmbeddingMatches:
    """Return results as arrays of ``k`` columns, or as many as needed, filled up."""
    most = k or max((len(ids) for ids, _ in answer.nearest), default=0)
    numbers = np.full((len(answer.nearest), most), -1, np.int64)
    distances = np.full((len(answer.nearest), most), np.inf)
    for row, (ids, true) in enumerate(answer.nearest):
        numbers[row, : len(ids)], distances[row, : len(ids)] = ids, true
    return EmbeddingMatches(numbers, distances, answer.stats)
