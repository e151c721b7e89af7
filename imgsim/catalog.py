"""The catalog: what exists, and every query on its tables."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    URL,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import DatabaseError, OperationalError

from imgsim.errors import CollectionDamaged, CollectionError, CollectionNewer, EncoderMissing
from imgsim.tables import ENCODERS, IMAGES, REFUSED, SEGMENTS
from imgsim.types import Damage, EncoderRecord, ImageFile, ImageRecord, Refusal, Segment, Within

SCHEMA = "0001"
"""The revision that this code reads and writes: the newest in migrations/versions."""

_IN_LIMIT = 10_000  # SQLite takes at most 32,766 parameters in a statement


class Snapshot:
    """One instant of the catalog, whatever a writer commits meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def encoder(self) -> EncoderRecord:
        """Return the active encoder, or raise :class:`EncoderMissing`."""
        columns = select(ENCODERS.c.id, ENCODERS.c.fingerprint, ENCODERS.c.dim)
        row = self._connection.execute(columns.where(ENCODERS.c.active)).one_or_none()
        if row is None:
            raise EncoderMissing("the collection has no encoder yet; run `imgsim train` first")
        return EncoderRecord(*row)

    def segments(self) -> list[Segment]:
        """Return the segments of the active encoder in the order of their commits."""
        rows = self._connection.execute(
            select(SEGMENTS.c.name, SEGMENTS.c.rows, SEGMENTS.c.dim, SEGMENTS.c.sha256)
            .join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
            .where(ENCODERS.c.active)
            .order_by(SEGMENTS.c.id)
        )
        return [Segment(*row) for row in rows]

    def segment_names(self) -> list[str]:
        """Return the names of all segments, whichever encoder made them."""
        return list(self._connection.execute(select(SEGMENTS.c.name)).scalars())

    def segment_ids(self, segment: Segment, within: Within | None = None) -> NDArray[np.int64]:
        """Return the image id of each row of a segment, -1 for a row that no image uses.

        The same goes for the rows of images whose path ``within`` does not admit.
        """
        ours = select(SEGMENTS.c.id).where(SEGMENTS.c.name == segment.name).scalar_subquery()
        admitted = [IMAGES.c.segment_id == ours, *_admitted(within or Within())]
        first, last, count = self._connection.execute(
            select(
                func.min(IMAGES.c.id - IMAGES.c.row),
                func.max(IMAGES.c.id - IMAGES.c.row),
                func.count(),
            ).where(*admitted)
        ).one()
        if count == segment.rows and first == last:  # as committed; spares a list of every row
            return np.arange(first, first + count)
        ids = np.full(segment.rows, -1, np.int64)
        if count:
            found = self._connection.execute(select(IMAGES.c.row, IMAGES.c.id).where(*admitted))
            pairs = np.array(found.all(), np.int64)
            ids[pairs[:, 0]] = pairs[:, 1]
        return ids

    def stamps(self, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (size, mtime_ns) of those of ``paths`` that are stored images."""
        rows = self._select_in(IMAGES.c.path, _encoded(paths), IMAGES.c.size, IMAGES.c.mtime_ns)
        return {os.fsdecode(path): (size, mtime) for path, size, mtime in rows}

    def refusals(self, paths: Sequence[str]) -> dict[str, tuple[int, int, str]]:
        """Return (size, mtime_ns, reason) of those of ``paths`` that were refused."""
        columns = REFUSED.c.size, REFUSED.c.mtime_ns, REFUSED.c.reason
        rows = self._select_in(REFUSED.c.path, _encoded(paths), *columns)
        return {os.fsdecode(path): (size, mtime, why) for path, size, mtime, why in rows}

    def paths(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the paths of the images with these ids."""
        rows = self._select_in(IMAGES.c.id, list(ids), IMAGES.c.path)
        return {image_id: os.fsdecode(path) for image_id, path in rows}

    def count_images(self) -> int:
        """Return the number of stored images."""
        return self._connection.execute(select(func.count(IMAGES.c.id))).scalar_one()

    def count_refused(self) -> int:
        """Return the number of refused files."""
        return self._connection.execute(select(func.count(REFUSED.c.path))).scalar_one()

    def longest_path(self) -> int:
        """Return the length in bytes of the longest path of an image, 0 if there is none."""
        longest = select(func.max(func.length(IMAGES.c.path)))
        return self._connection.execute(longest).scalar_one() or 0

    def damages(self, path: Path) -> list[Damage]:
        """Return what SQLite finds wrong with the catalog at ``path``, and rows out of range."""
        verdicts = self._connection.execute(text("PRAGMA integrity_check")).scalars()
        damages = [Damage(str(path), "a sound database", v) for v in verdicts if v != "ok"]
        rows = self._connection.execute(
            select(SEGMENTS.c.name, SEGMENTS.c.rows, func.max(IMAGES.c.row))
            .join(IMAGES, IMAGES.c.segment_id == SEGMENTS.c.id)
            .group_by(SEGMENTS.c.id)
            .having(func.max(IMAGES.c.row) >= SEGMENTS.c.rows)
        )
        for name, count, last in rows:
            damages.append(Damage(str(path), f"{count} rows in {name}", f"an image in row {last}"))
        return damages

    def _select_in(
        self, key: Column[Any], values: Sequence[object], *columns: Column[Any]
    ) -> Iterator[Sequence[Any]]:
        for start in range(0, len(values), _IN_LIMIT):
            chosen = key.in_(values[start : start + _IN_LIMIT])
            yield from self._connection.execute(select(key, *columns).where(chosen))


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
            fields = {"encoder_id": Snapshot(connection).encoder().id, "created_at": _now()}
            added = insert(SEGMENTS).values(**asdict(segment), **fields)
            segment_id = connection.execute(added.returning(SEGMENTS.c.id)).scalar_one()
            rows = [
                asdict(image)
                | {"path": os.fsencode(image.path), "segment_id": segment_id, "row": row}
                for row, image in enumerate(images)
            ]
            paths = _encoded([image.path for image in images])
            for table in (IMAGES, REFUSED):
                _delete_paths(connection, table, paths)
            connection.execute(insert(IMAGES), rows)

    def commit_refusals(self, refused: Sequence[tuple[ImageFile, Refusal]]) -> None:
        """Commit files whose content was refused."""
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
            _delete_paths(connection, REFUSED, _encoded([file.path for file, _ in refused]))
            connection.execute(insert(REFUSED), rows)


def _now() -> int:
    """Return the time in seconds since the epoch."""
    return int(time.time())


def _encoded(paths: Sequence[str]) -> list[bytes]:
    return [os.fsencode(path) for path in paths]


def _admitted(within: Within) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on the paths of images."""
    if within.under:
        yield or_(*map(_is_under, within.under))
    for directory in within.not_under:
        yield not_(_is_under(directory))


def _is_under(directory: str) -> ColumnElement[bool]:
    path = os.fsencode(os.path.abspath(directory)).rstrip(b"/")
    inside = and_(IMAGES.c.path > path + b"/", IMAGES.c.path < path + b"0")  # 0 comes after /
    return or_(IMAGES.c.path == path, inside)


def _delete_paths(connection: Connection, table: Table, paths: Sequence[bytes]) -> None:
    for start in range(0, len(paths), _IN_LIMIT):
        chosen = table.c.path.in_(paths[start : start + _IN_LIMIT])
        connection.execute(delete(table).where(chosen))


def _engine(path: Path) -> Engine:
    url = URL.create("sqlite", database=os.fspath(path))
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection: SQLiteConnection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where SQLAlchemy says, not sqlite3
        for setting in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine


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
