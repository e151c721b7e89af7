"""The workers of a cluster, for one collection."""

from contextlib import ExitStack
from dataclasses import replace
from threading import Lock
from types import ModuleType

from imgsim.cluster.encoding import ClusterEncoding, EncodingJob, probes
from imgsim.cluster.ray_cluster import joined
from imgsim.cluster.shards import Sharded, Shards
from imgsim.cluster_options import ClusterSettings
from imgsim.encoder.encoder import Encoder
from imgsim.options import DecodeRules


class Workers:
    """A cluster, joined when it is needed first, and what its workers do."""

    def __init__(self, settings: ClusterSettings, segments: Sharded) -> None:
        self._settings = settings
        segments = replace(segments, cache_bytes=settings.cache_bytes)
        self.shards = Shards(self._join, segments, settings.shards, settings.replicas)
        self._opened = ExitStack()
        self._lock = Lock()
        self._is_closed = False
        self._ray: ModuleType | None = None

    def close(self) -> None:
        """Leave the cluster; what asks for it from then on raises ValueError."""
        with self._lock:
            self._is_closed = True
        self._opened.close()

    def encoding(self, encoder: Encoder, rules: DecodeRules) -> ClusterEncoding:
        """Return what encodes image files with an encoder whose files are on all machines."""
        job = EncodingJob(encoder.path.parent, encoder.fingerprint, rules)
        expected = None if self._settings.allow_mixed else probes(encoder)
        return ClusterEncoding(self._join(), job, expected)

    def _join(self) -> ModuleType:
        """Return Ray, which is in the cluster."""
        with self._lock:
            if self._is_closed:
                raise ValueError("the collection is closed")
            if self._ray is None:
                self._ray = self._opened.enter_context(joined(self._settings.address))
            return self._ray
