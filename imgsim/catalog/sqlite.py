"""The SQLite file of a catalog."""

import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    PoolProxiedConnection,
    create_engine,
    event,
)
from sqlalchemy.pool import QueuePool

from imgsim import mounts
from imgsim.errors import (
    CollectionDamaged,
    CollectionError,
    CollectionForbidden,
)
from imgsim.locks import LOCAL_DISK, require_record_locks

_DAMAGE = "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH"
"""What SQLite says where the statements are right, and the tables are not."""

UNSOUND = sqlite3.Error, UnicodeDecodeError
"""What the module raises; the latter for messages with names that are not UTF-8."""

_TRIES = 20  # a tenth of a second apart

_SHARES = re.compile(
    r"afs|beegfs|ceph|cifs|gfs2|gpfs|lustre|nfs4?|ocfs2|smb3|smbfs"
    r"|fuse\.(ceph|gcsfuse|glusterfs|juicefs|mount-s3|rclone|s3fs|sshfs)"
)  # file systems that several machines have

_LACKING = {
    "SQLITE_PROTOCOL",
    *("SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK", "SQLITE_IOERR_UNLOCK"),
    *("SQLITE_IOERR_CHECKRESERVEDLOCK", "SQLITE_IOERR_BLOCKED", "SQLITE_IOERR_SHMLOCK"),
    *("SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMMAP"),
}
_WRITING = {
    *("SQLITE_IOERR", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"),
    *("SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_SHMSIZE"),
}


def engine_of(path: Path) -> Engine:
    """Return an engine for the SQLite file at ``path``, created if missing and allowed."""
    engine = create_engine(
        URL.create("sqlite", database=os.fspath(path)),
        creator=lambda: _connect(path),
        poolclass=QueuePool,
        execution_options={"path": path},
        max_overflow=-1,  # each open searcher has a connection, and nobody waits for another
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, UNSOUND):
            raise translated(path, context.original_exception) from context.original_exception

    return engine


class SqliteFile:
    """The catalog's database in the file at ``path``, created if missing and allowed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.engine = engine_of(path)
        with self.engine.connect():
            self._facts = path.stat()
        self._watching: PoolProxiedConnection | None = None

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Begin a transaction that waits for others that write, as they do for it."""
        with self.engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
            yield connection

    def writing(self) -> AbstractContextManager[None]:
        """Be the one writer, which the lock of the collection's folder says."""
        return nullcontext()

    def confirm(self) -> None:
        """Do nothing: the kernel keeps the lock."""

    def is_in_place(self) -> bool:
        """Say whether the file that is open is still the one at its path."""
        return self._path.exists() and os.path.samestat(self._facts, self._path.stat())

    def version(self) -> int:
        """Return a number that is another one after each commit of whichever process."""
        if self._watching is None:
            self._watching = self.engine.raw_connection()
        return int(self._watching.cursor().execute("PRAGMA data_version").fetchone()[0])

    def has_content(self, sha256: bytes) -> bool:
        """Say whether an image has this content, by a bare statement: every new file asks."""
        try:
            with closing(self.engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT 1 FROM images WHERE sha256 = ? LIMIT 1", (sha256,))
                return cursor.fetchone() is not None
        except UNSOUND as error:
            raise translated(self._path, error) from error

    def close(self) -> None:
        """Close all connections."""
        if self._watching is not None:
            self._watching.close()
        self.engine.dispose()


def as_text(content: bytes) -> str:
    """Return text as SQLite has it; what is damaged need not be UTF-8."""
    return content.decode(errors="surrogateescape")


def translated(path: Path, error: BaseException) -> CollectionError:
    """Return what to raise for what SQLite says of the catalog at ``path``."""
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if name.startswith(_DAMAGE):
        return CollectionDamaged(path, "a sound SQLite database of imgsim", str(error))
    if name.startswith("SQLITE_CANTOPEN"):
        unreadable = path.exists() and not os.access(path, os.R_OK)
        kind = CollectionForbidden if unreadable else CollectionError
        return kind(path, f"cannot be opened: {_reason(error)}")
    return CollectionError(path, f"SQLite says: {_reason(error)}")


def _connect(path: Path) -> sqlite3.Connection:
    """Open the database, whose transactions begin where SQLAlchemy says."""
    try:
        writable = os.access(path.parent, os.W_OK)
        connection = _opened(path, "rwc") if writable else _reading(path)
    except OSError as error:
        reason = error.strerror or error
        raise CollectionError(path, f"cannot be opened: {reason}") from error
    try:
        _use_log(connection)
        for setting in ("foreign_keys=ON", "synchronous=FULL", "fullfsync=ON"):
            connection.execute(f"PRAGMA {setting}")
    except UnicodeDecodeError as error:
        raise translated(path, error) from error
    return connection


def _use_log(connection: sqlite3.Connection) -> None:
    """Have a write-ahead log; where others switch to it at once, SQLite itself does not wait."""
    for left in reversed(range(_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not left or not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            time.sleep(0.1)
        else:
            return


def _reading(path: Path) -> sqlite3.Connection:
    """Open a database in a directory that cannot be written to.

    There SQLite cannot make the files by which connections know of one another. If there are none,
    nobody writes to the database, and nobody can on a file system that is read-only; elsewhere
    somebody may begin to, so what is opened is a copy.
    """
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return _unchanging(path)
        with tempfile.TemporaryDirectory() as folder:
            before = path.stat()
            copy = Path(shutil.copyfile(path, Path(folder) / path.name))
            after = path.stat()
            if not log.exists() and before.st_mtime_ns == after.st_mtime_ns:
                connection = _unchanging(copy)
                connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # opens the file
                return connection
    return _opened(path, "ro")


def _unchanging(path: Path) -> sqlite3.Connection:
    """Open a database that nobody writes to, without locks."""
    return _connected(path, "mode=ro&immutable=1")


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    _refuse_share(path.parent)
    require_record_locks(path.parent)
    return _connected(path, f"mode={mode}")


def _refuse_share(directory: Path) -> None:
    """Raise :class:`CollectionError` on a file system that several machines have.

    The processes that use a write-ahead log must share memory: https://sqlite.org/wal.html.
    """
    kind = mounts.kind_of(directory)
    if _SHARES.fullmatch(kind):
        raise CollectionError(
            directory,
            f"is on a network share ({kind}), where SQLite can lose what is written; {LOCAL_DISK}; "
            "a collection with its catalog in PostgreSQL (--catalog) may be there",
        )


def _connected(path: Path, parameters: str) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?{parameters}"
    found = sqlite3.connect(uri, 30, isolation_level=None, check_same_thread=False, uri=True)
    found.text_factory = as_text
    return found


def _reason(error: BaseException | None) -> str:
    """Return what SQLite says in an error, and what that may come from."""
    name = getattr(error, "sqlite_errorname", "")
    lacks = f"this file system lacks the locks or the shared memory that SQLite needs; {LOCAL_DISK}"
    if name.startswith("SQLITE_BUSY"):
        return f"{error}; another process holds it, or {lacks}"
    if name in _LACKING:
        return f"{error}; {lacks}"
    return f"{error}{'; is the disk full?' * (name in _WRITING)}"
