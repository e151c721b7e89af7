"""The ingest pipeline: scan, compare, decode, encode, store."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, tee
from typing import TypeVar

import numpy as np

from imgsim.catalog import Catalog
from imgsim.errors import ImageError, ImageUnavailable, NotAnImage
from imgsim.files import is_gone
from imgsim.latents import Latent, Latents, in_threads
from imgsim.store import VectorStore
from imgsim.types import (
    ImageFile,
    ImageRecord,
    IngestReport,
    IngestSettings,
    Refusal,
    StoredImage,
)

_COMPARED_AT_ONCE = 1_000
_BATCH_BYTES = 32 << 20
_BATCH_IMAGES = 4_096
_BATCH_SECONDS = 30.0

_Found = Iterable[ImageFile | ImageError]
_Result = TypeVar("_Result")


@dataclass
class _Batch:
    """Results that are not committed yet."""

    images: list[Latent] = field(default_factory=list)
    stamps: list[tuple[int, ImageRecord]] = field(default_factory=list)
    refused: list[tuple[ImageFile, Refusal]] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Say whether it is time to commit."""
        size = len(self.images) * self.images[0].vector.nbytes if self.images else 0
        late = time.monotonic() - self.began > _BATCH_SECONDS
        return size >= _BATCH_BYTES or self.counts.total() >= _BATCH_IMAGES or late


class Ingest:
    """One run over the files that a scan found."""

    def __init__(
        self, catalog: Catalog, store: VectorStore, latents: Latents, settings: IngestSettings
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._latents = latents
        self._settings = settings
        self._batch = _Batch()
        self._counts: Counter[str] = Counter()
        self._moved: set[int] = set()
        self._refused: list[Refusal] = []

    @property
    def report(self) -> IngestReport:
        """Return what is done so far; an image counts when its batch is committed."""
        names = "added", "changed", "moved", "unchanged", "skipped"
        counts = {name: self._counts[name] for name in names}
        return IngestReport(**counts, refused=tuple(self._refused))

    def preview(self, found: _Found) -> IngestReport:
        """Count what a run would do, without decoding anything."""
        for file, known, result in self._tried(found, self._latents.stored):
            if isinstance(result, ImageError):
                self._refuse(file, result)
            else:
                self._counts[self._place(file, known, result)[0]] += 1
        return self.report

    def run(self, found: _Found, on_progress: Callable[[int], None]) -> IngestReport:
        """Store what is new or changed; ``on_progress`` is told how many files are done.

        On an interrupt (``KeyboardInterrupt``) what is encoded is committed before it goes on up.
        """
        try:
            for file, known, result in self._tried(found, self._latents.of):
                if isinstance(result, ImageError):
                    self._refuse(file, result)
                else:
                    self._keep(file, known, result)
                on_progress(self._done())
                if self._batch.is_due():
                    self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        self._commit()
        on_progress(self._done())
        return self.report

    def _tried(
        self, found: _Found, work: Callable[[str], _Result]
    ) -> Iterator[tuple[ImageFile, bool, _Result | ImageError]]:
        """Yield the files to try, whether another content of each is stored, and the result."""
        files, ahead = tee(self._new_files(found))
        results = in_threads(work, (file.path for file, _ in ahead))
        for (file, known), result in zip(files, results, strict=True):
            yield file, known, result

    def _new_files(self, found: _Found) -> Iterator[tuple[ImageFile, bool]]:
        """Yield the files to try, and whether the file is stored, perhaps with other content."""
        remaining = iter(found)
        while chunk := list(islice(remaining, _COMPARED_AT_ONCE)):
            files = [item for item in chunk if isinstance(item, ImageFile)]
            paths = [file.path for file in files]
            for item in chunk:
                if isinstance(item, ImageError):
                    self._refused.append(Refusal(item.path, item.reason))
            with self._catalog.snapshot() as snapshot:
                stored, refused = snapshot.stamps(paths), snapshot.refusals(paths)
            for file in files:
                stamp, known = (file.size, file.mtime_ns), file.path in stored
                if known and stored[file.path] == stamp and not self._settings.rehash:
                    self._counts["unchanged"] += 1
                    if file.path in refused:
                        self._batch.mended.append(file.path)
                elif refused.get(file.path, ())[:2] == stamp and not self._settings.retry_refused:
                    self._refused.append(Refusal(file.path, refused[file.path][2]))
                else:
                    yield file, known

    def _place(
        self, file: ImageFile, known: bool, stored: Iterable[StoredImage]
    ) -> tuple[str, int | None]:
        """Return what a file counts as, and the id of the stored image that it is, if it is one."""
        for image in stored:
            if image.path == file.path:
                return "unchanged", image.id
        for image in stored:
            if image.id not in self._moved and is_gone(image.path):
                self._moved.add(image.id)
                return "moved", image.id
        return ("changed" if known else "added"), None

    def _keep(self, file: ImageFile, known: bool, latent: Latent) -> None:
        kind, image_id = self._place(file, known, latent.stored)
        self._batch.counts[kind] += 1
        if image_id is None:
            self._batch.images.append(latent)
        else:
            self._batch.stamps.append((image_id, latent.record))

    def _refuse(self, file: ImageFile, error: ImageError) -> None:
        if isinstance(error, NotAnImage) and not file.claimed:
            self._counts["skipped"] += 1
            return
        refusal = Refusal(file.path, error.reason)
        self._refused.append(refusal)
        if not isinstance(error, ImageUnavailable):  # that can change while the file does not
            self._batch.refused.append((file, refusal))

    def _commit(self) -> None:
        batch = self._batch  # until all of it is committed: an interrupt may come in between
        if batch.stamps:
            self._catalog.commit_stamps(batch.stamps)
        if batch.images:
            segment = self._store.add(np.stack([latent.vector for latent in batch.images]))
            self._catalog.commit_images(segment, [latent.record for latent in batch.images])
        if batch.refused or batch.mended:
            self._catalog.commit_refusals(batch.refused, batch.mended)
        self._counts += batch.counts
        self._batch = _Batch()
        self._latents.forget()

    def _done(self) -> int:
        return self._counts.total() + self._batch.counts.total() + len(self._refused)
