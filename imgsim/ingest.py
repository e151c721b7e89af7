"""The ingest pipeline: scan, compare, decode, encode, store."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, tee

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog import Catalog
from imgsim.encoder import Encoder
from imgsim.errors import ImageError, ImageUnavailable, NotAnImage
from imgsim.images import is_image, read
from imgsim.store import VectorStore
from imgsim.types import ImageFile, ImageRecord, IngestReport, Refusal

_COMPARED_AT_ONCE = 1_000
_BATCH_BYTES = 32 << 20
_BATCH_IMAGES = 4_096
_BATCH_SECONDS = 30.0

Encoded = tuple[ImageRecord, NDArray[np.float32]]
"""An image and its latent (dim,) float32."""


def encode_files(paths: Iterable[str], encoder: Encoder) -> Iterator[Encoded | ImageError]:
    """Decode and encode image files on all cores; yield one result for each path, in order.

    A worker takes one file from its bytes to its latent, so decoding and encoding share the cores
    and neither waits for the other. A bounded number of files is under way at any time.
    """
    workers = os.cpu_count() or 1
    pending: deque[Future[Encoded | ImageError]] = deque()
    remaining = iter(paths)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for path in islice(remaining, 8 * workers - len(pending)):
                    pending.append(pool.submit(_encode_file, path, encoder))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _encode_file(path: str, encoder: Encoder) -> Encoded | ImageError:
    try:
        record, pixels = read(path, encoder.feed.height, encoder.feed.width)
    except ImageError as error:
        return error
    return record, encoder.encode(pixels[np.newaxis])[0]


@dataclass
class _Batch:
    """Results that are not committed yet."""

    images: list[Encoded] = field(default_factory=list)
    changed: int = 0
    refused: list[tuple[ImageFile, Refusal]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Say whether it is time to commit."""
        size = len(self.images) * self.images[0][1].nbytes if self.images else 0
        late = time.monotonic() - self.began > _BATCH_SECONDS
        return size >= _BATCH_BYTES or len(self.images) >= _BATCH_IMAGES or late


class Ingest:
    """One run over the files that a scan found."""

    def __init__(self, catalog: Catalog, store: VectorStore, encoder: Encoder) -> None:
        self._catalog = catalog
        self._store = store
        self._encoder = encoder
        self._batch = _Batch()
        self._added = self._changed = self._unchanged = self._skipped = 0
        self._refused: list[Refusal] = []

    @property
    def report(self) -> IngestReport:
        """Return what is done so far; an image counts when its batch is committed."""
        return IngestReport(
            self._added, self._changed, self._unchanged, self._skipped, tuple(self._refused)
        )

    def preview(self, found: Iterable[ImageFile | ImageError]) -> IngestReport:
        """Count as added or changed what begins like an image, without decoding it."""
        for file, known in self._new_files(found):
            if is_image(file.path):
                self._changed += known
                self._added += not known
            else:
                self._refuse(file, NotAnImage(file.path, "not an image in a known format"))
        return self.report

    def run(
        self, found: Iterable[ImageFile | ImageError], on_progress: Callable[[int], None]
    ) -> IngestReport:
        """Store what is new or changed; ``on_progress`` is told how many files are done.

        On an interrupt (``KeyboardInterrupt``) what is encoded is committed before it goes on up.
        """
        files, ahead = tee(self._new_files(found))
        results = encode_files((file.path for file, _ in ahead), self._encoder)
        try:
            for (file, known), result in zip(files, results, strict=True):
                if isinstance(result, ImageError):
                    self._refuse(file, result)
                else:
                    self._batch.images.append(result)
                    self._batch.changed += known
                on_progress(self._done())
                if self._batch.is_due():
                    self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        self._commit()
        with self._catalog.snapshot() as snapshot:
            self._store.build_bounds(snapshot)
        on_progress(self._done())
        return self.report

    def _new_files(
        self, found: Iterable[ImageFile | ImageError]
    ) -> Iterator[tuple[ImageFile, bool]]:
        """Yield the files to try, and whether another content of the file is stored."""
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
                if stored.get(file.path) == (file.size, file.mtime_ns):
                    self._unchanged += 1
                elif refused.get(file.path, ())[:2] == (file.size, file.mtime_ns):
                    self._refused.append(Refusal(file.path, refused[file.path][2]))
                else:
                    yield file, file.path in stored

    def _refuse(self, file: ImageFile, error: ImageError) -> None:
        if isinstance(error, NotAnImage) and not file.claimed:
            self._skipped += 1
            return
        refusal = Refusal(file.path, error.reason)
        self._refused.append(refusal)
        if not isinstance(error, ImageUnavailable):  # that can change while the file does not
            self._batch.refused.append((file, refusal))

    def _commit(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if batch.images:
            segment = self._store.add(np.stack([latent for _, latent in batch.images]))
            self._catalog.commit_images(segment, [record for record, _ in batch.images])
            self._changed += batch.changed
            self._added += len(batch.images) - batch.changed
        if batch.refused:
            self._catalog.commit_refusals(batch.refused)

    def _done(self) -> int:
        counted = self._added + self._changed + self._unchanged + self._skipped
        return counted + len(self._refused) + len(self._batch.images)
