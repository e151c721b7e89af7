"""Which other machines work on a collection."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterSettings:
    """The Ray cluster whose machines search a collection, and decode and encode its images.

    ``address`` is that of its head, ``auto`` the one that this machine is in, ``local`` a new one
    of this machine alone. The collection's folder, and the images, are at the same paths on all
    machines. Segments are dealt out to up to ``shards`` shards (0: one for each machine), each of
    which ``replicas`` workers search, with all cores of their machines: with 2, another is asked
    where one is seen to die. A worker that gives other last bits for the same pixels than this
    machine, as another kind of processor does, ends an ingest, unless ``allow_mixed``. Copies of
    segments that are in a bucket take up to ``cache_bytes`` of a machine's disk, or what those take
    that are searched.
    """

    address: str
    shards: int = 0
    replicas: int = 1
    allow_mixed: bool = False
    cache_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not self.address:
            raise ValueError("name the address of a cluster, auto or local")
        if self.shards < 0:
            raise ValueError("there must be at least 1 shard, or 0 for one for each machine")
        if self.replicas < 1:
            raise ValueError("there must be at least 1 replica")


@dataclass(frozen=True)
class MilvusSettings:
    """A Milvus server that names candidates; imgsim's own distances rank them.

    ``uri`` is its address, as ``http://milvus.example:19530``; its collections begin with ``name``.
    ``MILVUS_TOKEN`` in the environment says who asks, if the server wants to know.
    """

    uri: str
    name: str = "imgsim"

    def __post_init__(self) -> None:
        """Refuse what Milvus takes for no name."""
        if "@" in self.uri:
            raise ValueError("keep credentials out of the address: MILVUS_TOKEN has them")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", self.name):
            raise ValueError("a name in Milvus has letters, digits and _, and begins with no digit")
