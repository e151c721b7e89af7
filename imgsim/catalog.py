"""The catalog: what exists, and every query on its tables."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import (
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
            raise CollectionError(path, f"cannot be opened: {error.orig}") from error
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
            raise CollectionError(self._path, f"SQLite says: {error.orig}") from error

    def commit_images(self, segment: Segment, images: Sequence[ImageRecord]) -> None:
        """Commit a segment of the active encoder and the image of each of its rows, in row order.

        An image whose path is already stored takes its place under a new id.
        """
        with self._transaction() as connection:
            segment_id = _insert_segment(connection, segment)
            rows = [
                asdict(image)
                | {"path": os.fsencode(image.path), "segment_id": segment_id, "row": row}
                for row, image in enumerate(images)
            ]
            paths = encoded([image.path for image in images])
            for table in (IMAGES, REFUSED):
                _delete_paths(connection, table, paths)
            connection.execute(insert(IMAGES), rows)

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

    def commit_stamps(self, images: Sequence[tuple[int, ImageRecord]]) -> None:
        """Commit path, size and time of stored images, by id, whose content is what it was.

        An image that is stored under one of the paths, and another, gives way.
        """
        with self._transaction() as connection:
            for number, image in images:
                path = os.fsencode(image.path)
                other = and_(IMAGES.c.path == path, IMAGES.c.id != number)
                connection.execute(delete(IMAGES).where(other))
                connection.execute(delete(REFUSED).where(REFUSED.c.path == path))
                fields = {"path": path, "size": image.size, "mtime_ns": image.mtime_ns}
                connection.execute(update(IMAGES).where(IMAGES.c.id == number).values(**fields))

    def commit_refusals(
        self, refused: Sequence[tuple[ImageFile, Refusal]], mended: Sequence[str]
    ) -> None:
        """Commit files whose content was refused, and paths where that no longer is so."""
        rows = [
            {
                "path": os.fsencode(file.path),
                "size": file.size,
                "mtime_ns": file.mtime_ns,
                "reason": refusal.reason,
            }
            for file, refusal in refused
        ]
        with self._transaction() as connection:
            _delete_paths(connection, REFUSED, encoded([*mended, *(f.path for f, _ in refused)]))
            if rows:
                connection.execute(insert(REFUSED), rows)

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
                rest = func.substr(path, len(os.fsencode(old)) + 1)
                # First to a place where no path can be in the way of another.
                for place, prefix, tail in (
                    (is_under(path, old), b"//" + os.fsencode(new), rest),
                    (func.substr(path, 1, 2) == b"//", b"", func.substr(path, 3)),
                ):
                    whole = cast(literal(prefix).concat(tail), LargeBinary)
                    connection.execute(update(table).where(place).values(path=whole))


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
    """Open the database, whose transactions begin where SQLAlchemy says.

    In a directory that cannot be written to, SQLite cannot make the files by which connections
    know of one another, so it has to be told that there is no other if there are no such files.
    """
    how = ""
    if not os.access(path.parent, os.W_OK):
        how = "?mode=ro" if path.with_name(f"{path.name}-wal").exists() else "?immutable=1"
    connection = sqlite3.connect(
        path.as_uri() + how, timeout=30, isolation_level=None, check_same_thread=False, uri=True
    )
    for setting in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {setting}")
    return connection


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
