"""What an ingest or a reencode commits at once."""

import logging
import time

import numpy as np
from numpy.typing import NDArray

from imgsim.encoder.embed import EmbeddedImage
from imgsim.index.vector_store import VectorStore
from imgsim.options import BatchLimits
from imgsim.records import Segment

_FIRST_SECONDS = 2.0
_LOG = logging.getLogger(__name__)


class Batch:
    """Embedded images that become one segment when they are many enough, or have waited enough.

    The first batch of a run waits for two seconds, each one ``after`` another twice as long.
    """

    def __init__(self, limits: BatchLimits, after: "Batch | None" = None) -> None:
        self.images: list[EmbeddedImage] = []
        self._limits = limits
        self._seconds: float = min(limits.seconds, 2 * after._seconds if after else _FIRST_SECONDS)
        self._began = time.monotonic()
        self._segment: Segment | None = None

    def is_due(self, items: int) -> bool:
        """Say whether it is time to commit so many items, of which the images are some."""
        size = len(self.images) * self.images[0].embedding.nbytes if self.images else 0
        late = time.monotonic() - self._began > self._seconds
        return size >= self._limits.bytes or items >= self._limits.images or late

    def write(self, store: VectorStore, ids: NDArray[np.int64]) -> Segment:
        """Write the images, whose ids are (n,) int64, as a segment; once, however often asked."""
        if self._segment is None:
            self._segment = store.add(ids, np.stack([image.embedding for image in self.images]))
            took = time.monotonic() - self._began
            _LOG.debug("%d images are encoded and written after %.2f s", len(ids), took)
        return self._segment
