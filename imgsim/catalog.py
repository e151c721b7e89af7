"""The catalog: what exists, and every query on its tables."""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    Table,
    and_,
    bindparam,
    cast,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import QueuePool

from imgsim.errors import CollectionDamaged, CollectionError, CollectionNewer
from imgsim.snapshot import IN_LIMIT, Snapshot, encoded, is_under
from imgsim.tables import ENCODERS, IMAGES, REFUSED, ROOTS, SEGMENTS
from imgsim.types import (
    ImageFile,
    ImageRecord,
    Refusal,
    Segment,
)

SCHEMA = "0002"
"""The revision that this code reads and writes: the newest in migrations/versions."""


class Catalog:
    """The SQLite file ``catalog.db`` of a collection."""

    def __init__(self, path: Path) -> None:
        """Open the catalog at ``path``, created if missing, and bring its schema up to date."""
        self._path = path
        self._engine = _engine(path)
        try:
            _upgrade(self._engine, path)
        except OperationalError as error:
            raise CollectionError(path, f"cannot be opened: {_reason(error)}") from error
        except DatabaseError as error:
            raise CollectionDamaged(path, "an SQLite database", str(error.orig)) from error

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read one instant of the catalog."""
        with self._transaction() as connection:
            yield Snapshot(connection)

    def has_content(self, sha256: bytes) -> bool:
        """Say whether an image has this content; every new file asks, so it is a bare statement."""
        try:
            with closing(self._engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT 1 FROM images WHERE sha256 = ? LIMIT 1", (sha256,))
                return cursor.fetchone() is not None
        except sqlite3.Error as error:
            raise CollectionError(self._path, f"SQLite says: {error}") from error

    def activate_encoder(self, fingerprint: str, dim: int) -> None:
        """Commit an encoder as the one that makes the collection's vectors."""
        with self._transaction() as connection:
            connection.execute(update(ENCODERS).values(active=False))
            known = select(ENCODERS.c.id).where(ENCODERS.c.fingerprint == fingerprint)
            if connection.execute(known).one_or_none() is None:
                fields = {"fingerprint": fingerprint, "dim": dim, "created_at": _now()}
                connection.execute(insert(ENCODERS).values(active=True, **fields))
            else:
                ours = ENCODERS.c.fingerprint == fingerprint
                connection.execute(update(ENCODERS).where(ours).values(active=True))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            raise CollectionError(self._path, f"SQLite says: {_reason(error)}") from error

    def commit_batch(
        self,
        segment: Segment | None,
        images: Sequence[ImageRecord],
        stamps: Sequence[tuple[int, ImageRecord]] = (),
        refused: Sequence[tuple[ImageFile, Refusal]] = (),
    ) -> None:
        """Commit what an ingest did; with a segment that is committed already, nothing.

        ``images`` are the rows of ``segment``, in order; one whose path is stored takes its place
        under a new id. ``stamps`` are ids of stored images whose content is what it was, with the
        path, size and time that each has now; an image that is stored under the path, and another,
        gives way. ``refused`` files are no images, whatever was stored under their paths.
        """
        with self._transaction() as connection:
            if segment is not None and segment.name in Snapshot(connection).segment_names():
                return
            _update_stamps(connection, stamps)
            if segment is not None:
                _insert_images(connection, segment, images)
            _insert_refusals(connection, refused)

    def commit_merge(self, old: Sequence[str], new: Segment | None, ids: Sequence[int]) -> None:
        """Commit that ``new`` takes the place of the segments named ``old``.

        Its rows are the images ``ids``, which are all of theirs.
        """
        with self._transaction() as connection:
            if new is not None:
                segment_id = _insert_segment(connection, new)
                place = {"segment_id": segment_id, "row": bindparam("new_row")}
                moved = update(IMAGES).where(IMAGES.c.id == bindparam("image_id")).values(**place)
                rows = [{"image_id": number, "new_row": row} for row, number in enumerate(ids)]
                connection.execute(moved, rows)
            connection.execute(delete(SEGMENTS).where(SEGMENTS.c.name.in_(old)))

    def commit_roots(self, folders: Sequence[str]) -> None:
        """Commit folders that are ingested."""
        with self._transaction() as connection:
            known = set(Snapshot(connection).roots())
            new = [{"path": os.fsencode(folder)} for folder in set(folders) - known]
            if new:
                connection.execute(insert(ROOTS), new)

    def forget(self, images: Sequence[int], refused: Sequence[str], roots: Sequence[str]) -> None:
        """Commit that images (by id), refusals and roots (by path) are no more."""
        with self._transaction() as connection:
            for start in range(0, len(images), IN_LIMIT):
                chosen = IMAGES.c.id.in_(images[start : start + IN_LIMIT])
                connection.execute(delete(IMAGES).where(chosen))
            _delete_paths(connection, REFUSED, encoded(refused))
            _delete_paths(connection, ROOTS, encoded(roots))

    def relocate(self, old: str, new: str) -> None:
        """Commit that everything at and below the path ``old``, and only that, is at ``new``."""
        with self._transaction() as connection:
            for table in (IMAGES, REFUSED, ROOTS):
                path = table.c.path
                inside = is_under(path, old)
                tail = func.substr(path, len(os.fsencode(old)) + 1)
                # First to a place where no path can be, nor be in the way of another.
                away = _joined(b"\0" + os.fsencode(new), tail)
                connection.execute(update(table).where(inside).values(path=away))
                moved = func.substr(path, 1, 1) == b"\0"
                target = _joined(b"", func.substr(path, 2))
                if table is not IMAGES:  # the same folder, or refused file, at both
                    both = path.in_(select(target).where(moved))
                    connection.execute(delete(table).where(both))
                connection.execute(update(table).where(moved).values(path=target))


def _reason(error: DatabaseError) -> str:
    name = getattr(error.orig, "sqlite_errorname", "")
    return f"{error.orig}{'; is the disk full?' * name.startswith('SQLITE_IOERR')}"


def _joined(prefix: bytes, tail: ColumnElement[bytes]) -> ColumnElement[bytes]:
    return cast(literal(prefix).concat(tail), LargeBinary)


def _update_stamps(connection: Connection, stamps: Sequence[tuple[int, ImageRecord]]) -> None:
    for number, image in stamps:
        path = os.fsencode(image.path)
        other = and_(IMAGES.c.path == path, IMAGES.c.id != number)
        connection.execute(delete(IMAGES).where(other))
        connection.execute(delete(REFUSED).where(REFUSED.c.path == path))
        fields = {"path": path, "size": image.size, "mtime_ns": image.mtime_ns}
        connection.execute(update(IMAGES).where(IMAGES.c.id == number).values(**fields))


def _insert_images(connection: Connection, segment: Segment, images: Sequence[ImageRecord]) -> None:
    segment_id = _insert_segment(connection, segment)
    rows = [
        asdict(image) | {"path": os.fsencode(image.path), "segment_id": segment_id, "row": row}
        for row, image in enumerate(images)
    ]
    paths = encoded([image.path for image in images])
    for table in (IMAGES, REFUSED):
        _delete_paths(connection, table, paths)
    connection.execute(insert(IMAGES), rows)


def _insert_refusals(connection: Connection, refused: Sequence[tuple[ImageFile, Refusal]]) -> None:
    paths = encoded([file.path for file, _ in refused])
    rows = [
        {
            "path": os.fsencode(file.path),
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "reason": refusal.reason,
        }
        for file, refusal in refused
    ]
    for table in (IMAGES, REFUSED):
        _delete_paths(connection, table, paths)
    if rows:
        connection.execute(insert(REFUSED), rows)


def _insert_segment(connection: Connection, segment: Segment) -> int:
    """Insert a segment of the active encoder and return its id."""
    fields = {"encoder_id": Snapshot(connection).encoder().id, "created_at": _now()}
    added = insert(SEGMENTS).values(**asdict(segment), **fields)
    return connection.execute(added.returning(SEGMENTS.c.id)).scalar_one()


def _now() -> int:
    """Return the time in seconds since the epoch."""
    return int(time.time())


def _delete_paths(connection: Connection, table: Table, paths: Sequence[bytes]) -> None:
    for start in range(0, len(paths), IN_LIMIT):
        chosen = table.c.path.in_(paths[start : start + IN_LIMIT])
        connection.execute(delete(table).where(chosen))


def _engine(path: Path) -> Engine:
    engine = create_engine("sqlite://", creator=lambda: _connect(path), poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine


def _connect(path: Path) -> sqlite3.Connection:
    """Open the database, whose transactions begin where SQLAlchemy says."""
    writable = os.access(path.parent, os.W_OK)
    connection = _opened(path, "rwc") if writable else _reading(path)
    for setting in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _reading(path: Path) -> sqlite3.Connection:
    """Open a database in a directory that cannot be written to.

    There SQLite cannot make the files by which connections know of one another. If there are none,
    nobody writes to the database, and nobody can on a file system that is read-only; elsewhere
    somebody may begin to, so what is opened is a copy.
    """
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return _opened(path, "ro", "&immutable=1")
        with tempfile.TemporaryDirectory() as folder:
            before = path.stat()
            copy = Path(shutil.copyfile(path, Path(folder) / path.name))
            after = path.stat()
            if not log.exists() and before.st_mtime_ns == after.st_mtime_ns:
                connection = _opened(copy, "ro", "&immutable=1")
                connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # opens the file
                return connection
    return _opened(path, "ro")


def _opened(path: Path, mode: str, more: str = "") -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={mode}{more}"
    return sqlite3.connect(uri, 30, isolation_level=None, check_same_thread=False, uri=True)


def _upgrade(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        found = _schema(connection)
    if found > SCHEMA:
        raise CollectionNewer(
            path.parent, f"its schema is {found} and this imgsim knows {SCHEMA}; upgrade imgsim"
        )
    if found < SCHEMA:
        writing = engine.execution_options(begin="BEGIN IMMEDIATE")
        with writing.begin() as connection:
            if _schema(connection) < SCHEMA:  # nobody else did it while we waited
                migrate(connection, _migrations())


def _schema(connection: Connection) -> str:
    if not inspect(connection).has_table("alembic_version"):
        return "0000"
    version = connection.execute(text("SELECT version_num FROM alembic_version"))
    return version.scalar_one_or_none() or "0000"


def migrate(connection: Connection, scripts: Path) -> None:
    """Run the Alembic revisions in ``scripts`` that are missing, in the open transaction."""
    from alembic import command  # noqa: PLC0415 - a second of import, for a step that is rare
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", os.fspath(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _migrations() -> Path:
    """Return where the migrations are: inside the package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
