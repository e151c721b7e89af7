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
from imgsim.latents import Known, Latent, Latents, in_threads
from imgsim.presence import Roots, State, is_gone
from imgsim.settings import IngestSettings
from imgsim.store import VectorStore
from imgsim.types import ImageFile, ImageRecord, IngestReport, Refusal, Segment, StoredImage

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
    segment: Segment | None = None
    stamps: list[tuple[int, ImageRecord]] = field(default_factory=list)
    refused: list[tuple[ImageFile, Refusal]] = field(default_factory=list)
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
        self,
        catalog: Catalog,
        store: VectorStore,
        latents: Latents,
        settings: IngestSettings,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare a run; ``on_progress`` is told how many files are done."""
        self._catalog = catalog
        self._store = store
        self._latents = latents
        self._settings = settings
        self._on_progress = on_progress
        with catalog.snapshot() as snapshot:
            self._roots = Roots(snapshot.roots())
        self._batch = _Batch()
        self._counts: Counter[str] = Counter()
        self._moved: set[int] = set()
        self._refused: list[Refusal] = []
        self._unreachable: list[Refusal] = []

    @property
    def report(self) -> IngestReport:
        """Return what is done so far; an image counts when its batch is committed."""
        return IngestReport(
            added=self._counts["added"],
            changed=self._counts["changed"],
            moved=self._counts["moved"],
            unchanged=self._counts["unchanged"],
            skipped=self._counts["skipped"],
            refused=tuple(self._refused),
            unreachable=tuple(self._unreachable),
        )

    def preview(self, found: _Found) -> IngestReport:
        """Count what a run would do, without decoding anything."""
        for file, known, result in filter(None, self._tried(found, self._latents.known)):
            if isinstance(result, ImageError):
                self._refuse(file, result, known=known)
            else:
                self._counts[self._place(file, result.stored, known=known)[0]] += 1
        return self.report

    def run(self, found: _Found) -> IngestReport:
        """Store what is new or changed.

        On an interrupt (``KeyboardInterrupt``) what is encoded is committed before it goes on up.
        """
        try:
            for tried in self._tried(found, self._latents.of):
                if tried is not None:
                    self._keep(*tried)
                if self._batch.is_due():
                    self._commit()
                self._on_progress(self._done())
            self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        return self.report

    def _tried(
        self, found: _Found, work: Callable[[str], _Result]
    ) -> Iterator[tuple[ImageFile, bool, _Result | ImageError] | None]:
        """Yield the files to try, whether another content of each is stored, and the result.

        None comes now and then, so that the caller need not wait while there is nothing new.
        """

        def attempt(item: tuple[ImageFile, bool] | None) -> _Result | None:
            return None if item is None else work(item[0].path)

        files, ahead = tee(self._new_files(found))
        for item, result in zip(files, in_threads(attempt, ahead), strict=True):
            yield None if item is None or result is None else (*item, result)

    def _new_files(self, found: _Found) -> Iterator[tuple[ImageFile, bool] | None]:
        """Yield the files to try, and whether the file is stored, perhaps with other content.

        None comes after each chunk of files that were compared.
        """
        remaining = iter(found)
        while chunk := list(islice(remaining, _COMPARED_AT_ONCE)):
            files = [item for item in chunk if isinstance(item, ImageFile)]
            paths = [file.path for file in files]
            for item in chunk:
                if isinstance(item, ImageError):
                    self._unreachable.append(Refusal(item.path, item.reason))
            with self._catalog.snapshot() as snapshot:
                stored, refused = snapshot.stamps(paths), snapshot.refusals(paths)
            for file in files:
                stamp, known = (file.size, file.mtime_ns), file.path in stored
                if known and stored[file.path] == stamp and not self._settings.rehash:
                    self._counts["unchanged"] += 1
                elif refused.get(file.path, ())[:2] == stamp and not self._settings.retry_refused:
                    self._refused.append(Refusal(file.path, refused[file.path][2]))
                else:
                    yield file, known
            yield None

    def _place(
        self, file: ImageFile, stored: Iterable[StoredImage], *, known: bool
    ) -> tuple[str, int | None]:
        """Return what a file counts as, and the id of the stored image that it is, if it is one."""
        free = [image for image in stored if image.id not in self._moved]
        for image in free:
            if image.path == file.path:
                return "unchanged", image.id
        for image in free:
            if is_gone(image.path) and not self._is_unmounted(image.path):
                self._moved.add(image.id)
                return "moved", image.id
        return ("changed" if known else "added"), None

    def _is_unmounted(self, path: str) -> bool:
        return self._roots.state(self._roots.of(path)) is State.empty

    def _keep(self, file: ImageFile, known: bool, found: Latent | Known | ImageError) -> None:
        if isinstance(found, ImageError):
            self._refuse(file, found, known=known)
            return
        stored = found.stored if isinstance(found, Known) else ()
        kind, image_id = self._place(file, stored, known=known)
        if image_id is not None:
            self._batch.stamps.append((image_id, found.record))
        elif isinstance(found, Latent):
            self._batch.images.append(found)
        else:
            try:
                self._batch.images.append(self._latents.copied(found))
            except ImageError as error:
                self._refuse(file, error, known=known)
                return
        self._batch.counts[kind] += 1

    def _refuse(self, file: ImageFile, error: ImageError, *, known: bool) -> None:
        refusal = Refusal(file.path, error.reason)
        if isinstance(error, ImageUnavailable):  # that can change while the file does not
            self._unreachable.append(refusal)
        elif isinstance(error, NotAnImage) and not (file.claimed or known):
            self._counts["skipped"] += 1
        else:
            self._refused.append(refusal)
            self._batch.refused.append((file, refusal))

    def _done(self) -> int:
        counts = self._counts.total() + self._batch.counts.total()
        return counts + len(self._refused) + len(self._unreachable)

    def _commit(self) -> None:
        """Commit the batch; an interrupt may come at any point, and then it is done once more."""
        batch = self._batch
        if batch.images and batch.segment is None:
            vectors = np.stack([latent.vector for latent in batch.images])
            batch.segment = self._store.add(vectors)
        records = [latent.record for latent in batch.images]
        self._catalog.commit_batch(batch.segment, records, batch.stamps, batch.refused)
        self._counts += batch.counts
        self._batch = _Batch()
        self._latents.forget()
