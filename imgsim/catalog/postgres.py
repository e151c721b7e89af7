"""A catalog in PostgreSQL, for collections that several machines work on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    ExceptionContext,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from imgsim.catalog.schema import IMAGES
from imgsim.errors import CollectionError, CollectionLocked
from imgsim.locks import require_locks

URL_NAME = "catalog.url"
"""The file beside where the SQLite file would be; it says where the catalog is."""

_DRIVER = "postgresql+psycopg"
_LOCK = 0x696D67  # of ours among advisory locks: "img"
_SCHEMA = func.hashtext(func.current_schema())


def url_of(path: Path) -> str | None:
    """Return where the catalog is that would be at ``path``; None if it is there."""
    try:
        return path.with_name(URL_NAME).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def address(url: str, path: Path) -> str:
    """Return an address as it is noted; raise :class:`CollectionError` if it is none."""
    return str(_parsed(url, path))


def _parsed(url: str, path: Path) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise CollectionError(path, "its catalog has no address of a database") from error
    if parsed.get_backend_name() != "postgresql":
        raise CollectionError(path, "the address of its catalog must begin with postgresql://")
    if parsed.password is not None or any("password" in name for name in parsed.query):
        raise CollectionError(
            path, "keep the password out of the address: PGPASSWORD or ~/.pgpass has it"
        )
    return parsed.set(drivername="postgresql")


class PostgresDatabase:
    """The catalog's tables in the current schema of the database at ``url``."""

    def __init__(self, url: str, path: Path) -> None:
        self._path = path
        try:
            import psycopg  # noqa: PLC0415, F401 - an extra
        except ImportError as error:
            raise CollectionError(
                path, "its catalog is in PostgreSQL: `pip install 'imgsim[postgresql]'`"
            ) from error
        require_locks(path.parent)
        self.engine = create_engine(
            _parsed(url, path).set(drivername=_DRIVER),
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,
            max_overflow=-1,
            execution_options={"path": path},
        )
        self._bare = create_engine(
            self.engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool
        )
        self._watching: Connection | None = None
        self._writing: Connection | None = None
        for engine in (self.engine, self._bare):
            event.listen(engine, "handle_error", self._translate)

    def _translate(self, context: ExceptionContext) -> None:
        if context.is_pre_ping:  # it connects anew
            return
        reason = " ".join(str(context.original_exception).split())
        raise CollectionError(self._path, f"PostgreSQL says: {reason}") from (
            context.original_exception
        )

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Begin a transaction that waits for others that are alone."""
        committed = self.engine.execution_options(isolation_level="READ COMMITTED")
        with committed.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK + 1, _SCHEMA)))
            yield connection

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer, on whichever machine; the server knows when a process ends."""
        with self._bare.connect() as connection:
            for setting in ("idle = 60", "interval = 10", "count = 3"):  # or it waits for hours
                connection.execute(text(f"SET tcp_keepalives_{setting}"))
            mine = connection.execute(select(func.pg_try_advisory_lock(_LOCK, _SCHEMA)))
            if not mine.scalar_one():
                raise CollectionLocked(self._path.parent, self._writer(connection))
            self._writing = connection
            try:
                yield
            finally:
                self._writing = None

    def confirm(self) -> None:
        """Raise :class:`CollectionError` if the connection that has the writer's lock is gone."""
        if self._writing is not None:
            self._writing.execute(text("SELECT 1"))

    def _writer(self, connection: Connection) -> str:
        """Return who is the writer."""
        who = connection.execute(
            text(
                "SELECT coalesce(' on ' || host(client_addr), ''), backend_start::text "
                "FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' "
                "AND datname = current_database() AND classid = :ours AND granted "
                "AND objid::bigint = hashtext(current_schema())::bigint & 4294967295"
            ),
            {"ours": _LOCK},
        ).first()
        where = "" if who is None or who[1] is None else f"{who[0]}, since {who[1]}"
        return f"another process is writing to it{where}; try again when it has finished"

    def is_in_place(self) -> bool:
        """Say whether the folder still says that the catalog is here."""
        url = url_of(self._path)
        return url is not None and _parsed(url, self._path).set(drivername=_DRIVER) == (
            self.engine.url
        )

    def version(self) -> str:
        """Return what is another text after each commit on the server, and after its start."""
        now = text("SELECT pg_current_snapshot()::text || ' ' || pg_postmaster_start_time()::text")
        try:
            if self._watching is None:
                self._watching = self._bare.connect()
            return str(self._watching.execute(now).scalar_one())
        except CollectionError:
            if self._watching is not None:
                self._watching.close()
            self._watching = None
            raise

    def has_content(self, sha256: bytes) -> bool:
        """Say whether an image has this content."""
        with self.engine.connect() as connection:
            found = select(IMAGES.c.id).where(IMAGES.c.sha256 == sha256).limit(1)
            return connection.execute(found).first() is not None

    def close(self) -> None:
        """Close all connections."""
        if self._watching is not None:
            self._watching.close()
        self.engine.dispose()
