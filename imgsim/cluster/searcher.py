"""What answers queries about one collection with the machines of a cluster."""

import os
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

from imgsim.catalog.snapshot import Snapshot
from imgsim.cluster.ray_cluster import joined
from imgsim.cluster.shards import ShardedGallery
from imgsim.directory import SEGMENTS, Directory
from imgsim.files import absolute
from imgsim.options import Device, PathLike, SearchFilter
from imgsim.searcher import Searcher


class ClusterSearcher(Searcher):
    """A :class:`Searcher` whose embeddings are searched by workers of a Ray cluster.

    The collection's folder must be at the same path on all machines; segments are dealt out to up
    to ``shards`` workers (0: one for each machine), each of which uses all cores of its machine.
    The answers are those of a :class:`Searcher`, to the last bit, also while workers or machines
    die, as long as others have a free core. ``address`` is that of the cluster's head (``auto``:
    the one that this machine is in), or ``local`` to make one of this machine.

    Raises :class:`ClusterError` if it cannot be joined, or if a worker cannot begin in two minutes;
    :class:`ExtraMissing` without Ray; and what :meth:`Collection.open` raises.
    """

    def __init__(
        self,
        path: PathLike,
        within: SearchFilter | None = None,
        *,
        address: str = "local",
        shards: int = 0,
        device: Device = "auto",
    ) -> None:
        if shards < 0:
            raise ValueError("there must be at least 1 shard, or 0 for one for each machine")
        with ExitStack() as opening:
            directory = Directory.open(Path(absolute(os.fspath(path))), create=False, device=device)
            opening.callback(directory.close)
            ray = opening.enter_context(joined(address))
            machines = sum(node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())

            def gallery(
                snapshot: Snapshot, filtered: SearchFilter
            ) -> AbstractContextManager[ShardedGallery]:
                shape = shards or machines or 1, snapshot.encoder().dim
                rows = snapshot.segment_rows(filtered)
                folder = directory.path / SEGMENTS
                return closing(ShardedGallery(ray, folder, rows, shape, filtered.radius))

            super().__init__(directory, within, directory.load_encoder, gallery)
            self._cluster = opening.pop_all()

    def close(self) -> None:
        """End the workers, and leave the cluster; a search raises ValueError from then on."""
        try:
            super().close()
        finally:
            self._cluster.close()
