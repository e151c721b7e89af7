"""Give every stored image a vector of another encoder, and let that one take over."""

import time
from collections.abc import Iterator
from itertools import tee

import numpy as np

from imgsim.catalog import Catalog
from imgsim.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.latents import Latent, encoded_again
from imgsim.store import VectorStore
from imgsim.types import EncoderRecord, ImageRecord, Progress, ReencodeReport, Refusal, Segment

_AT_ONCE = 4_096  # images
_BATCH_BYTES = 32 << 20
_BATCH_SECONDS = 30.0


def take_over(catalog: Catalog, store: VectorStore, record: EncoderRecord) -> None:
    """Let an encoder take over that has a vector of every image, or raise EncoderMismatch."""
    with catalog.snapshot() as snapshot:
        able = not record.active and not snapshot.count_unplaced(record)
    if able:
        store.forget_basis()  # before the commit: a basis for other vectors would not be noticed
    catalog.use_encoder(record)


class Reencode:
    """One run; what is committed stays, also when the run is interrupted or killed."""

    def __init__(self, catalog: Catalog, store: VectorStore, record: EncoderRecord) -> None:
        self._catalog = catalog
        self._store = store
        self._record = record
        self._batch: dict[int, Latent] = {}
        self._segment: Segment | None = None
        self._began = time.monotonic()
        self._encoded = 0

    def run(self, encoder: Encoder, on_progress: Progress | None = None) -> ReencodeReport:
        """Encode the images that have no vector of the encoder; it takes over if all have.

        On an interrupt (``KeyboardInterrupt``) what is encoded is committed before it goes on up.
        """
        self._catalog.keep_encoder(self._record)
        with self._catalog.snapshot() as snapshot:
            images, total = snapshot.count_images(), snapshot.count_unplaced(self._record)
        refused = []
        missing, ahead = tee(self._missing())
        results = encoded_again((image for _, image in ahead), encoder)
        try:
            for done, (number, _) in enumerate(missing, start=1):
                result = next(results)
                if isinstance(result, ImageError):
                    refused.append(Refusal(result.path, result.reason))
                else:
                    self._batch[number] = result
                if self._is_due():
                    self._commit()
                if on_progress is not None:
                    on_progress(done, total)
            self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        if not refused:
            take_over(self._catalog, self._store, self._record)
        return ReencodeReport(images, self._encoded, tuple(refused), not refused)

    def _missing(self) -> Iterator[tuple[int, ImageRecord]]:
        """Yield id and facts of the images that have no vector of the encoder."""
        last = 0
        while True:
            with self._catalog.snapshot() as snapshot:
                images = snapshot.unplaced(self._record, last, _AT_ONCE)
            if not images:
                return
            yield from images.items()
            last = max(images)

    def _is_due(self) -> bool:
        size = 4 * self._record.dim * len(self._batch)
        late = time.monotonic() - self._began > _BATCH_SECONDS
        return size >= _BATCH_BYTES or len(self._batch) >= _AT_ONCE or late

    def _commit(self) -> None:
        """Commit the batch; an interrupt may come at any point, and then it is done once more."""
        if self._batch:
            if self._segment is None:
                vectors = np.stack([latent.vector for latent in self._batch.values()])
                self._segment = self._store.add(vectors)
            self._catalog.commit_placements(self._record, self._segment, list(self._batch))
            self._encoded += len(self._batch)
            self._batch, self._segment = {}, None
        self._began = time.monotonic()
