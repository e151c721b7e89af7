"""What a catalog asks of the database that it is in."""

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Engine


class Database(Protocol):
    """The database of one collection; its transactions see one instant."""

    @property
    def engine(self) -> Engine:
        """Return what gives connections, whose errors are of imgsim's kinds."""

    def alone(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that waits for others that write, as they do for it."""

    def writing(self) -> AbstractContextManager[None]:
        """Be the one writer; raise :class:`CollectionLocked` if somebody else is."""

    def confirm(self) -> None:
        """Raise :class:`CollectionError` if the one writer may be another by now."""

    def is_in_place(self) -> bool:
        """Say whether what is open is still the collection's."""

    def version(self) -> int | str:
        """Return what is something else after each commit of whichever process.

        It is for one thread at a time.
        """

    def has_content(self, sha256: bytes) -> bool:
        """Say whether an image has this content; every new file asks."""

    def close(self) -> None:
        """Close all connections."""
