"""One instant of a collection, open: its catalog, its embeddings and their encoder."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from imgsim.directory import Directory
from imgsim.encoder.embed import Query, embed_images
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.files import absolute
from imgsim.images.roots import is_same_file
from imgsim.images.source import Images
from imgsim.index.distance import Nearest
from imgsim.index.search import Answer
from imgsim.jobs.nearest import Own, nearest_but
from imgsim.jobs.neighbours import matches, nearest_others
from imgsim.options import DecodeRules, SearchFilter
from imgsim.records import EncoderRecord
from imgsim.results import ImageInfo, Match

_LOG = logging.getLogger(__name__)

Embedded = tuple[list[Query], NDArray[np.float32]]
"""Some query images, and their embeddings (q, dim)."""


class Reading:
    """What a search needs of one collection, until it is closed; several threads may use it."""

    def __init__(
        self,
        directory: Directory,
        within: SearchFilter,
        load_encoder: Callable[[EncoderRecord], Encoder],
    ) -> None:
        began = time.perf_counter()
        self._directory = directory
        self._within = within
        self._load_encoder = load_encoder
        self._loaded: Encoder | None = None
        self._lock = Lock()  # a snapshot is one connection to the catalog
        with ExitStack() as opening:
            self._snapshot = opening.enter_context(directory.reading())
            self.encoder = self._snapshot.encoder()
            self._gallery = opening.enter_context(directory.gallery(self._snapshot, within))
            self._opened = opening.pop_all()
        _LOG.debug("opened %d images in %.1f ms", len(self), _milliseconds(began))

    def close(self) -> None:
        """Release what is open."""
        self._opened.close()

    def __len__(self) -> int:
        """Return the number of images that count."""
        return len(self._gallery)

    def embed(
        self,
        images: Images,
        on_error: Callable[[ImageError], None] | None,
        rules: DecodeRules,
    ) -> Embedded:
        """Return query images and their embeddings, and hashes where the filter asks for them."""
        encoder, began = self.loaded(), time.perf_counter()
        hashed = self._within.no_self or self._within.distinct
        embedded = embed_images(images, encoder, on_error, rules, hashed=hashed)
        _LOG.debug("encoded %d images in %.1f ms", len(embedded[0]), _milliseconds(began))
        return embedded

    def loaded(self) -> Encoder:
        """Return the encoder of this instant, which stays loaded."""
        if self._loaded is None:
            began = time.perf_counter()
            self._loaded = self._load_encoder(self.encoder)
            _LOG.debug("the encoder is there after %.1f ms", _milliseconds(began))
        return self._loaded

    def nearest(
        self, embeddings: NDArray[np.float32], k: int | None, queries: Sequence[Query] = ()
    ) -> Answer:
        """Return the nearest of embeddings (q, dim), which may be those of some images."""
        began = time.perf_counter()
        if self._within.no_self or self._within.distinct:
            own = [self._own(query) for query in queries] or [Own()] * len(embeddings)
            answer = nearest_but(self._gallery, embeddings, k, own, self._contents)
        else:
            answer = self._gallery.search(embeddings, k)
        _LOG.debug("searched for %d images in %.1f ms", len(embeddings), _milliseconds(began))
        return answer

    def nearest_others(self, ids: NDArray[np.int64], k: int | None) -> Answer:
        """Return the nearest others of stored images; ValueError for an id that none has."""
        rows = self.embeddings(ids)
        return nearest_others(self._gallery, ids, rows, k, self._contents)

    def matches(self, nearest: Sequence[Nearest]) -> list[tuple[Match, ...]]:
        """Return what was found with ranks and paths."""
        with self._lock:
            return matches(self._snapshot, nearest)

    def embeddings(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings (n, dim) of stored images; ValueError for an id that none has."""
        with self._lock:
            places = self._snapshot.places(ids.tolist())
        unknown = [number for number in ids.tolist() if number not in places]
        if unknown:
            raise ValueError(f"no stored image has the id {unknown[0]}")
        with self._lock:
            return self._directory.store.embeddings(
                [places[number] for number in ids.tolist()], self._snapshot.segment_ids
            )

    def images(self, ids: Sequence[int]) -> dict[int, ImageInfo]:
        """Return what is known of those of the images with these ids that are stored, by id."""
        with self._lock:
            found = self._snapshot.records(ids)
        return {
            number: ImageInfo(number, each.path, each.width, each.height, each.size, each.damaged)
            for number, each in found.items()
        }

    def contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the hash of the content of each of some images, by id."""
        with self._lock:
            return self._snapshot.contents(ids)

    @property
    def _contents(self) -> Callable[[Sequence[int]], dict[int, bytes]] | None:
        """Return what tells copies apart, if the filter leaves them out."""
        return self.contents if self._within.distinct else None

    def _own(self, query: Query) -> Own:
        """Return what the filter leaves out of the nearest of an image."""
        images = set[int]()
        if self._within.no_self:
            with self._lock:
                images.add(self._snapshot.id_at(absolute(query.name)) or 0)
                alike = self._snapshot.with_content(query.content) if query.content else ()
            images |= {each.id for each in alike if is_same_file(each.path, query.name)}
        return Own(frozenset(images), query.content if self._within.distinct else None)


def _milliseconds(began: float) -> float:
    return 1e3 * (time.perf_counter() - began)
