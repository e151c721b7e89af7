"""Give every stored image an embedding by another encoder, and let that one take over."""

import logging
from collections.abc import Iterator
from itertools import tee

import numpy as np

from imgsim.directory import Directory
from imgsim.encoder.embed import embed_again
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ImageError
from imgsim.jobs.batch import Batch
from imgsim.options import BatchLimits
from imgsim.records import EncoderRecord, ImageRecord
from imgsim.results import Progress, ReencodeReport, Refusal

_LOG = logging.getLogger(__name__)


def take_over(directory: Directory, record: EncoderRecord) -> None:
    """Let an encoder take over that has an embedding of every image, or raise EncoderMismatch."""
    with directory.catalog.snapshot() as snapshot:
        able = not record.active and not snapshot.count_unstaged(record)
    if able:
        directory.store.forget_projection()  # before the commit: nobody would notice that it is old
    directory.catalog.use_encoder(record)
    _LOG.debug("%s has taken over", record.name)


class Reencode:
    """One run; what is committed stays, also when the run is interrupted or killed."""

    def __init__(self, directory: Directory, record: EncoderRecord, limits: BatchLimits) -> None:
        self._directory = directory
        self._catalog = directory.catalog
        self._record = record
        self._limits = limits
        self._batch, self._ids = Batch(limits), list[int]()
        self._encoded = 0

    def run(self, encoder: Encoder, on_progress: Progress | None = None) -> ReencodeReport:
        """Encode the images that have no embedding by the encoder; it takes over if all have.

        On an interrupt (``KeyboardInterrupt``) what is encoded is committed before it goes on up.
        """
        self._catalog.keep_encoder(self._record)
        with self._catalog.snapshot() as snapshot:
            images, total = snapshot.count_images(), snapshot.count_unstaged(self._record)
        refused = []
        missing, ahead = tee(self._missing())
        results = embed_again((image for _, image in ahead), encoder)
        try:
            for done, (number, _) in enumerate(missing, start=1):
                result = next(results)
                if isinstance(result, ImageError):
                    refused.append(Refusal(result.path, result.reason))
                else:
                    self._batch.images.append(result)
                    self._ids.append(number)
                if self._batch.is_due(len(self._ids)):
                    self._commit()
                if on_progress is not None:
                    on_progress(done, total)
            self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        if not refused:
            take_over(self._directory, self._record)
        return ReencodeReport(images, self._encoded, tuple(refused), not refused)

    def _missing(self) -> Iterator[tuple[int, ImageRecord]]:
        """Yield id and facts of the images that have no embedding by the encoder."""
        last = 0
        while True:
            with self._catalog.snapshot() as snapshot:
                images = snapshot.unstaged(self._record, last, self._limits.images)
            if not images:
                return
            yield from images.items()
            last = max(images)

    def _commit(self) -> None:
        """Commit the batch; an interrupt may come at any point, and then it is done once more."""
        if self._ids:
            segment = self._batch.write(self._directory.store, np.array(self._ids))
            self._catalog.commit_staged(self._record, segment, self._ids)
            self._encoded += len(self._ids)
            _LOG.debug("%d embeddings are committed", self._encoded)
        self._batch, self._ids = Batch(self._limits, self._batch), []
