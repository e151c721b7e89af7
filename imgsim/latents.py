"""Latents of image files: each content is decoded and encoded once."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog import Catalog
from imgsim.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.images import OpenImage, opened
from imgsim.store import VectorStore
from imgsim.types import ImageRecord, StoredImage

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Latent:
    """An image file's latent (dim,) float32, and the images that have its content already."""

    record: ImageRecord
    vector: NDArray[np.float32]
    stored: tuple[StoredImage, ...] = ()


def encoded(path: str, encoder: Encoder) -> Latent:
    """Decode and encode the image at ``path``, or raise :class:`ImageError`."""
    with opened(path) as image:
        return _encoded(image, encoder)


class Latents:
    """Latents of files for one writer, who may ask from many threads.

    What the catalog has is not computed again, nor what this object has computed before and is not
    yet told to forget.
    """

    def __init__(self, encoder: Encoder, catalog: Catalog, store: VectorStore) -> None:
        self._encoder = encoder
        self._catalog = catalog
        self._store = store
        self._new: dict[bytes, Future[Latent | None]] = {}
        self._lock = Lock()

    def of(self, path: str) -> Latent:
        """Return the latent of the image at ``path``, or raise :class:`ImageError`."""
        with opened(path) as image:
            return self._once(image, lambda: self._kept(image) or _encoded(image, self._encoder))

    def stored(self, path: str) -> tuple[StoredImage, ...]:
        """Return the stored images that have the content of the image at ``path``."""
        with opened(path) as image, self._catalog.snapshot() as snapshot:
            return snapshot.with_content(image.sha256)

    def forget(self) -> None:
        """Forget what was computed; the catalog has it now."""
        with self._lock:
            self._new = {key: future for key, future in self._new.items() if not future.done()}

    def _once(self, image: OpenImage, find: Callable[[], Latent]) -> Latent:
        """Return what ``find`` does, or what it gave for the same content in another thread."""
        mine: Future[Latent | None] = Future()
        with self._lock:
            future = self._new.setdefault(image.sha256, mine)
        if future is not mine and (same := future.result()) is not None:
            size = same.record.width, same.record.height
            return Latent(_record(image, size), same.vector, same.stored)
        found = None
        try:
            found = find()
        finally:
            mine.set_result(found)
        return found

    def _kept(self, image: OpenImage) -> Latent | None:
        """Return the latent that is stored for this content, if any is."""
        with self._catalog.snapshot() as snapshot:
            stored = snapshot.with_content(image.sha256)
        if not stored:
            return None
        vector = self._store.vector(stored[0].segment, stored[0].row)
        return Latent(_record(image, (stored[0].width, stored[0].height)), vector, stored)


def _encoded(image: OpenImage, encoder: Encoder) -> Latent:
    pixels = image.decode(encoder.feed.height, encoder.feed.width)
    return Latent(_record(image, pixels.size), encoder.encode(pixels.values[np.newaxis])[0])


def _record(image: OpenImage, size: tuple[int, int]) -> ImageRecord:
    return ImageRecord(image.path, image.size, image.mtime_ns, image.sha256, *size)


def in_threads(
    work: Callable[[str], _Result], paths: Iterable[str]
) -> Iterator[_Result | ImageError]:
    """Call ``work`` on image files, on all cores; yield its results in order, or its ImageErrors.

    A worker takes one file from its bytes to its latent, so decoding and encoding share the cores
    and neither waits for the other. A bounded number of files is under way at any time.
    """
    workers = os.cpu_count() or 1
    pending: deque[Future[_Result | ImageError]] = deque()
    remaining = iter(paths)

    def attempt(path: str) -> _Result | ImageError:
        try:
            return work(path)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for path in islice(remaining, 8 * workers - len(pending)):
                    pending.append(pool.submit(attempt, path))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
