"""The contents of the images that count, and which of them are near each other."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot
from imgsim.curation.linkage import Links
from imgsim.index.distance import Block, Nearest
from imgsim.index.gallery import Searchable
from imgsim.jobs.neighbours import in_portions

_AT_ONCE = 10_000  # images whose records are in memory


@dataclass(frozen=True, eq=False)
class Nodes:
    """Images (n,) by ``ids``, in ascending order, and the ``nodes`` that they belong to.

    Images of the same content are one node, or with folders apart those in the same folder. Nodes
    are numbered by content, so that their order is that of nothing else. ``contents`` (m, 32) uint8
    are those of each node, ``firsts`` (m,) the image that stands for it.
    """

    ids: NDArray[np.int64]
    nodes: NDArray[np.int64]
    contents: NDArray[np.uint8]
    folders: NDArray[np.int64]
    firsts: NDArray[np.int64]

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the nodes of images."""
        return self.nodes[np.searchsorted(self.ids, ids)]

    def images(self, nodes: Sequence[int]) -> NDArray[np.int64]:
        """Return the images of some nodes."""
        return self.ids[np.isin(self.nodes, nodes)]


def nodes_of(snapshot: Snapshot, ids: NDArray[np.int64], *, apart: bool) -> Nodes:
    """Return the nodes of images; ``apart`` tells those of different folders apart."""
    ids = np.sort(ids)
    keys = np.zeros((len(ids), 64), np.uint8)
    for start in range(0, len(ids), _AT_ONCE):
        records = snapshot.records(ids[start : start + _AT_ONCE].tolist())
        for row, number in enumerate(ids[start : start + _AT_ONCE].tolist(), start=start):
            record = records[number]
            folder = hashlib.sha256(os.fsencode(os.path.dirname(record.path))).digest()
            keys[row] = np.frombuffer(record.sha256 + (folder if apart else bytes(32)), np.uint8)
    whole = np.ascontiguousarray(keys).view("V64")[:, 0]
    unique, firsts, nodes = np.unique(whole, return_index=True, return_inverse=True)
    parts = unique.view(np.uint8).reshape(-1, 64)
    folders = np.unique(np.ascontiguousarray(parts[:, 32:]).view("V32")[:, 0], return_inverse=True)
    return Nodes(ids, nodes, parts[:, :32], folders[1], ids[firsts])


def stand(nodes: Nodes, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which images stand for their nodes."""
    return np.isin(ids, nodes.firsts)


def candidates(
    gallery: Searchable, nodes: Nodes, blocks: Iterable[Block]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield pairs of nodes (n,), the ones of queries and others, and distances (n,).

    The queries are ids and embeddings; the others are within the radius of the gallery.
    """

    def search(_: NDArray[np.int64], rows: NDArray[np.float32]) -> list[Nearest]:
        return gallery.search(rows, None).nearest

    for ids, found in in_portions(blocks, search):
        owners = np.repeat(ids, [len(near) for near, _ in found])
        others, far = (np.concatenate(column) for column in zip(*found, strict=True))
        ours, theirs = nodes.of(owners), nodes.of(others)
        chosen = stand(nodes, others) & (ours != theirs)
        yield ours[chosen], theirs[chosen], far[chosen]


def as_links(ours: NDArray[np.int64], theirs: NDArray[np.int64], far: NDArray[np.float64]) -> Links:
    """Return pairs of nodes, of which none is posed, as links."""
    return Links(ours, theirs, far, np.zeros(len(far), bool))
