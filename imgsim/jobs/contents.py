"""Embeddings of image files: each content is decoded and encoded once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import TypeVar

from imgsim.directory import Directory
from imgsim.encoder.embed import EmbeddedImage, embed, embed_file, record_of
from imgsim.encoder.encoder import Encoder
from imgsim.errors import CollectionDamaged, ImageError
from imgsim.images.decode import OpenImage, opened
from imgsim.options import DecodeRules
from imgsim.parallel import in_threads
from imgsim.records import ImageRecord, StoredImage


@dataclass(frozen=True, eq=False)
class KnownContent:
    """An image file, and the ``stored`` images that have its content."""

    record: ImageRecord
    stored: tuple[StoredImage, ...]


Tried = TypeVar("Tried", EmbeddedImage | KnownContent, KnownContent)


class Contents:
    """Embeddings of files for one writer.

    What the catalog has is not computed again, nor what this object has computed before and is not
    yet told to forget; but the workers of a cluster, who do not see the catalog, compute all.
    """

    def __init__(self, encoder: Encoder, directory: Directory, rules: DecodeRules) -> None:
        self._encoder, self._rules = encoder, rules
        self._catalog = directory.catalog
        self._store = directory.store
        self._workers = directory.workers
        self._new: dict[bytes, Future[EmbeddedImage | KnownContent | None]] = {}
        self._lock = Lock()

    def of(
        self, paths: Iterable[str | None]
    ) -> Iterator[EmbeddedImage | KnownContent | ImageError | None]:
        """Yield the embedding of each image unless its content is known, and None for None."""
        if self._workers is None:
            yield from in_threads(partial(self._attempt, self._once), paths)
            return
        for each in self._workers.encoding(self._encoder, self._rules)(paths):
            if isinstance(each, EmbeddedImage) and (stored := self._stored(each.record.sha256)):
                yield KnownContent(each.record, stored)
            else:
                yield each

    def known(self, paths: Iterable[str | None]) -> Iterator[KnownContent | ImageError | None]:
        """Yield for each image which stored images, if any, have its content; None for None."""
        return in_threads(partial(self._attempt, self._known), paths)

    def _attempt(self, work: Callable[[OpenImage], Tried], path: str | None) -> Tried | None:
        if path is None:
            return None
        with opened(path, self._rules) as image:
            return work(image)

    def copied(self, known: KnownContent) -> EmbeddedImage:
        """Return the embedding that is stored for a content, or anew if its file is damaged."""
        stored = known.stored[0]
        place = stored.id, stored.segment, stored.row
        with suppress(CollectionDamaged), self._catalog.snapshot() as snapshot:
            rows = self._store.embeddings([place], snapshot.segment_ids)
            return EmbeddedImage(known.record, rows[0])
        return embed_file(known.record.path, self._encoder, self._rules)

    def forget(self) -> None:
        """Forget what was computed; the catalog has it now."""
        with self._lock:
            self._new = {key: future for key, future in self._new.items() if not future.done()}

    def _once(self, image: OpenImage) -> EmbeddedImage | KnownContent:
        """Do what :meth:`of` does, or take what another thread got for the same content."""
        mine: Future[EmbeddedImage | KnownContent | None] = Future()
        with self._lock:
            future = self._new.setdefault(image.sha256, mine)
        if future is not mine and (same := future.result()) is not None:
            size = same.record.width, same.record.height
            return replace(same, record=record_of(image, size, damaged=same.record.damaged))
        found: EmbeddedImage | KnownContent | None = None
        try:
            known = self._known(image)
            found = known if known.stored else embed(image, self._encoder)
        finally:
            mine.set_result(found)
        return found

    def _known(self, image: OpenImage) -> KnownContent:
        stored = self._stored(image.sha256)
        size = (stored[0].width, stored[0].height) if stored else (0, 0)
        damaged = any(each.damaged for each in stored)
        return KnownContent(record_of(image, size, damaged=damaged), stored)

    def _stored(self, content: bytes) -> tuple[StoredImage, ...]:
        if not self._catalog.has_content(content):
            return ()
        with self._catalog.snapshot() as snapshot:
            return snapshot.with_content(content)
