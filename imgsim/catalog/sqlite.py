"""The SQLite file of a catalog: open it and bring its schema up to date."""

import logging
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.pool import QueuePool

from imgsim.errors import (
    CollectionDamaged,
    CollectionError,
    CollectionForbidden,
    CollectionNewer,
)
from imgsim.locks import LOCAL_DISK, require_record_locks

_DAMAGE = "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH"
"""What SQLite says where the statements are right, and the tables are not."""

UNSOUND = sqlite3.Error, UnicodeDecodeError
"""What the module raises; the latter for messages with names that are not UTF-8."""

_LOG = logging.getLogger(__name__)
_TRIES = 20  # a tenth of a second apart

SCHEMA = "0007"
"""The revision that this code reads and writes: the newest in migrations/versions."""

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
    require_record_locks(path.parent)
    return _connected(path, f"mode={mode}")


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


def upgrade(engine: Engine, path: Path) -> bool:
    """Bring the schema up to date, and say whether an older collection was changed.

    Raises :class:`CollectionNewer` if it is ahead, and :class:`CollectionForbidden` if it cannot be
    changed.
    """
    with engine.begin() as connection:
        found = _schema(connection)
    if found > SCHEMA:
        raise CollectionNewer(
            path.parent, f"its schema is {found} and this imgsim knows {SCHEMA}; upgrade imgsim"
        )
    if found < SCHEMA:
        if not os.access(path.parent, os.W_OK):
            raise CollectionForbidden(
                path.parent,
                f"its schema is {found}, this imgsim needs {SCHEMA}, and the folder cannot be "
                "written to; open it once where it can",
            )
        writing = engine.execution_options(begin="BEGIN IMMEDIATE")
        with writing.begin() as connection:
            if _schema(connection) < SCHEMA:  # nobody else did it while we waited
                began = time.perf_counter()
                migrate(connection, _migrations())
                took = time.perf_counter() - began
                _LOG.debug("the schema went from %s to %s in %.2f s", found, SCHEMA, took)
    return "0000" < found < SCHEMA


def _schema(connection: Connection) -> str:
    if not inspect(connection).has_table("alembic_version"):
        return "0000"
    version = connection.execute(text("SELECT version_num FROM alembic_version"))
    return version.scalar_one_or_none() or "0000"


def migrate(connection: Connection, scripts: Path, target: str = "head") -> None:
    """Run the Alembic revisions in ``scripts`` up to ``target``, in the open transaction."""
    from alembic import command  # noqa: PLC0415 - a second of import, for a step that is rare
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", os.fspath(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _migrations() -> Path:
    """Return where the migrations are: inside the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
