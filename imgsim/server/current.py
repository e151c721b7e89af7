"""The searcher of a collection that changes underneath."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock

from imgsim.collection import Collection
from imgsim.directory import Directory
from imgsim.errors import CollectionError
from imgsim.searcher import Searcher


@dataclass
class _Lease:
    searcher: Searcher
    users: int = 0


class Current:
    """Lends the searcher of the newest state; a search that is under way keeps its own."""

    def __init__(self, directory: Directory) -> None:
        self._collection, self._catalog = Collection(directory), directory.catalog
        self._lock = Lock()
        self._version: int | str | None = self._catalog.version()
        self._newest = _Lease(self._collection.searcher())

    @contextmanager
    def searcher(self) -> Iterator[Searcher]:
        """Lend the searcher of the collection as it is now."""
        with self._lock:
            self._renew()
            lease = self._newest
            lease.users += 1
        try:
            yield lease.searcher
        except CollectionError:  # what it has open may be no good any more
            self._version = None
            raise
        finally:
            with self._lock:
                lease.users -= 1
                self._drop(lease)

    def close(self) -> None:
        """Close the newest searcher."""
        with self._lock:
            self._newest.searcher.close()

    def _renew(self) -> None:
        version = self._catalog.version()
        if version != self._version:
            former, self._newest = self._newest, _Lease(self._collection.searcher())
            self._version = version
            self._drop(former)

    def _drop(self, lease: _Lease) -> None:
        if lease is not self._newest and not lease.users:
            with suppress(CollectionError):  # its database may be gone
                lease.searcher.close()
