"""Latents of image files: each content is decoded and encoded once."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog import Catalog
from imgsim.encoder import Encoder
from imgsim.errors import CollectionDamaged, ImageError
from imgsim.images import OpenImage, opened
from imgsim.store import VectorStore
from imgsim.types import ImageRecord, StoredImage

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Latent:
    """An image file and its latent (dim,) float32."""

    record: ImageRecord
    vector: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Known:
    """An image file, and the ``stored`` images that have its content."""

    record: ImageRecord
    stored: tuple[StoredImage, ...]


def encoded(path: str, encoder: Encoder) -> Latent:
    """Decode and encode the image at ``path``, or raise :class:`ImageError`."""
    with opened(path) as image:
        return _encoded(image, encoder)


def all_encoded(
    paths: Sequence[str], encoder: Encoder, on_error: Callable[[ImageError], None] | None
) -> list[Latent]:
    """Encode images; those that cannot be decoded go to ``on_error``, or raise without one."""
    latents = []
    for result in in_threads(partial(encoded, encoder=encoder), paths):
        if not isinstance(result, ImageError):
            latents.append(result)
        elif on_error is None:
            raise result
        else:
            on_error(result)
    return latents


def stamp(path: str) -> tuple[int, int, bytes]:
    """Return size, time and hash of the image file at ``path``."""
    with opened(path) as image:
        return image.size, image.mtime_ns, image.sha256


def encoded_again(
    records: Iterable[ImageRecord], encoder: Encoder
) -> Iterator[Latent | ImageError]:
    """Yield the latents of images whose files still have their content."""

    def again(record: ImageRecord) -> Latent:
        with opened(record.path) as image:
            if image.sha256 != record.sha256:
                raise ImageError(record.path, "has other content by now")
            return _encoded(image, encoder)

    return in_threads(again, records)


class Latents:
    """Latents of files for one writer, who may ask from many threads.

    What the catalog has is not computed again, nor what this object has computed before and is not
    yet told to forget.
    """

    def __init__(self, encoder: Encoder, catalog: Catalog, store: VectorStore) -> None:
        self._encoder = encoder
        self._catalog = catalog
        self._store = store
        self._new: dict[bytes, Future[Latent | Known | None]] = {}
        self._lock = Lock()
        self._is_sound = cache(lambda segment: store.segment_damage(segment) is None)

    def of(self, path: str) -> Latent | Known:
        """Encode the image at ``path`` unless its content is known.

        Raises :class:`ImageError`.
        """
        with opened(path) as image:
            return self._once(image)

    def known(self, path: str) -> Known:
        """Return the image at ``path`` and which stored images, if any, have its content."""
        with opened(path) as image:
            return self._known(image)

    def copied(self, known: Known) -> Latent:
        """Return the latent that is stored for a content; encode again if its file is damaged."""
        first = known.stored[0]
        if self._is_sound(first.segment):
            with suppress(CollectionDamaged):
                return Latent(known.record, self._store.vector(first.segment, first.row))
        return encoded(known.record.path, self._encoder)

    def forget(self) -> None:
        """Forget what was computed; the catalog has it now."""
        with self._lock:
            self._new = {key: future for key, future in self._new.items() if not future.done()}

    def _once(self, image: OpenImage) -> Latent | Known:
        """Do what :meth:`of` does, or take what another thread got for the same content."""
        mine: Future[Latent | Known | None] = Future()
        with self._lock:
            future = self._new.setdefault(image.sha256, mine)
        if future is not mine and (same := future.result()) is not None:
            return replace(same, record=_record(image, (same.record.width, same.record.height)))
        found: Latent | Known | None = None
        try:
            known = self._known(image)
            found = known if known.stored else _encoded(image, self._encoder)
        finally:
            mine.set_result(found)
        return found

    def _known(self, image: OpenImage) -> Known:
        stored: tuple[StoredImage, ...] = ()
        if self._catalog.has_content(image.sha256):
            with self._catalog.snapshot() as snapshot:
                stored = snapshot.with_content(image.sha256)
        size = (stored[0].width, stored[0].height) if stored else (0, 0)
        return Known(_record(image, size), stored)


def _encoded(image: OpenImage, encoder: Encoder) -> Latent:
    pixels = image.decode(encoder.feed.height, encoder.feed.width)
    vector = vector_of(image.path, pixels.values, encoder)
    return Latent(_record(image, pixels.size), vector)


def vector_of(path: str, pixels: NDArray[np.uint8], encoder: Encoder) -> NDArray[np.float32]:
    """Return the latent (dim,) of an image, or raise :class:`ImageError` if it is not finite."""
    vector: NDArray[np.float32] = encoder.encode(pixels[np.newaxis])[0]
    if not np.isfinite(vector).all():
        raise ImageError(path, "the encoder gives values for it that are not finite")
    return vector


def _record(image: OpenImage, size: tuple[int, int]) -> ImageRecord:
    return ImageRecord(image.path, image.size, image.mtime_ns, image.sha256, *size)


def in_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result | ImageError]:
    """Call ``work`` on image files, on all cores; yield its results in order, or its ImageErrors.

    A worker takes one file from its bytes to its latent, so decoding and encoding share the cores
    and neither waits for the other. A bounded number of files is under way at any time.
    """
    workers = os.cpu_count() or 1
    pending: deque[Future[_Result | ImageError]] = deque()
    remaining = iter(items)

    def attempt(item: _Item) -> _Result | ImageError:
        try:
            return work(item)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for item in islice(remaining, 8 * workers - len(pending)):
                    pending.append(pool.submit(attempt, item))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
