"""Mend a damaged catalog: make its indexes anew, or all of it from the rows that can be read."""

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select

from imgsim.catalog import changes
from imgsim.catalog.checksums import record_of
from imgsim.catalog.damage import is_size
from imgsim.catalog.migrate import SCHEMA, upgrade
from imgsim.catalog.restore import restore
from imgsim.catalog.schema import IMAGES, JUDGED, RADII, REFUSED, ROOTS, SEGMENTS, STAGED
from imgsim.catalog.snapshot import Snapshot
from imgsim.catalog.sqlite import UNSOUND, SqliteFile, as_text
from imgsim.errors import CollectionDamaged
from imgsim.files import replacing, writing
from imgsim.records import Inventory

_HEADER = struct.Struct(">16xH10xI")  # the size of a page, 1 for 65,536, and how many there are
_MOST_PAGES = 1 << 24  # what is added is sparse
_LARGEST_ROWID = 1 << 40


def mend(path: Path, take_inventory: Callable[[], Inventory]) -> str:
    """Mend the catalog at ``path``, and return what was done; nothing to a sound one.

    Only the one writer may. Indexes are made anew. If there is other damage, the catalog is
    replaced by one of the rows that can be read, with the encoders and segments of the inventory,
    and the damaged file stays beside it. Raises :class:`CollectionDamaged` for one of an older
    schema.
    """
    if _is_sound(path):
        return ""
    if _reindex(path):
        return "the indexes of the catalog were damaged, and are made anew"
    if (schema := _schema(path)) not in {SCHEMA, None}:
        raise CollectionDamaged(path, f"a catalog of schema {SCHEMA}", f"a damaged {schema}")
    found = take_inventory()
    with writing(path), ExitStack() as undo:
        kept = _free_name(path)
        undo.callback(_remove, kept)
        _copy(path, kept)
        with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
            read, active = _rebuild(_copy_padded(path, Path(folder)), temporary, found)
            for end in ("-wal", "-shm"):  # of the damaged one; SQLite would add it to the new one
                path.with_name(path.name + end).unlink(missing_ok=True)
        undo.pop_all()
    return (
        f"the catalog was damaged: a new one has the {read:,} images that could be read, and "
        f"`imgsim ingest` brings back any others; its encoder is {active}; the damaged one is "
        f"{kept.name}"
    )


def _is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT version_num FROM alembic_version")  # or it is empty
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except UNSOUND:
        return False


def _reindex(path: Path) -> bool:
    """Make the indexes anew; say whether the catalog is sound then."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("REINDEX")
            connection.commit()
    except UNSOUND:
        return False
    return _is_sound(path)


def _schema(path: Path) -> str | None:
    """Return the revision of a damaged catalog; None if that cannot be read."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return None if found is None else str(found[0])
    except UNSOUND:
        return None


def _free_name(path: Path) -> Path:
    """Return where to keep the damaged file."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


def _copy(path: Path, kept: Path) -> None:
    """Copy the damaged file, and what SQLite had not yet moved into it."""
    for end in ("", "-wal"):
        if (part := path.with_name(path.name + end)).exists():
            with replacing(kept.with_name(kept.name + end)) as temporary:
                shutil.copyfile(part, temporary)


def _remove(kept: Path) -> None:
    for end in ("", "-wal"):
        kept.with_name(kept.name + end).unlink(missing_ok=True)


def _copy_padded(path: Path, folder: Path) -> Path:
    """Copy the damaged file, with the right first bytes, and as long as its header says.

    SQLite reads nothing of any other.
    """
    for end in ("", "-wal"):
        if (part := path.with_name(path.name + end)).exists():
            shutil.copyfile(part, folder / part.name)
    copy = folder / path.name
    with copy.open("rb+") as file:
        head = file.read(_HEADER.size)
        if len(head) == _HEADER.size:
            page, pages = _HEADER.unpack(head)
            size = (page if page > 1 else 65_536) * min(pages, _MOST_PAGES)
            file.truncate(max(size, copy.stat().st_size))
            file.seek(0)
            file.write(b"SQLite format 3\0")
    return copy


def _rebuild(damaged: Path, path: Path, found: Inventory) -> tuple[int, str]:
    """Make a catalog at ``path`` of what can be read of a damaged one.

    Return how many images it has, and the name of the active encoder.
    """
    database = SqliteFile(path)
    try:
        upgrade(database, path.parent)
        with closing(sqlite3.connect(damaged)) as source, database.engine.begin() as connection:
            source.text_factory = as_text
            changes.defer_foreign_keys(connection)
            for table in (IMAGES, STAGED, REFUSED, ROOTS, RADII, JUDGED):
                _fill(connection, table, source)
            ids = (number for (number,) in _readable(source, "sqlite_sequence", "seq"))
            fit = (number for number in ids if is_size(number) and number <= changes.LARGEST_ID)
            found = replace(found, last_id=max((found.last_id, *fit)))
            restore(connection, partial(_readable, source), found)
            _drop_orphans(connection)
            changes.delete_unfit(connection)
            changes.seal(connection)
            snapshot = Snapshot(connection)
            active = (each.name for each in snapshot.encoders() if each.active)
            return snapshot.count_images(), next(active, "none")
    finally:
        database.close()


def _fill(connection: Connection, table: Table, source: sqlite3.Connection) -> None:
    """Insert the rows of a table that can be read, of images those that are as they were stored.

    Of two images in one row, the second comes to one that no image can have.
    """
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    marks = ", ".join("?" * len(table.columns))
    into = f"INSERT OR IGNORE INTO {table.name} ({names}) VALUES ({marks})"
    for row in _readable(source, table.name, names):
        if table is not IMAGES:
            connection.exec_driver_sql(into, row)
        elif _is_as_stored(row) and not connection.exec_driver_sql(into, row).rowcount:
            connection.exec_driver_sql(into, (*row[:8], changes.no_row(row[0]), *row[9:]))


def _readable(source: sqlite3.Connection, table: str, names: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table that can be read; over damage it goes in ever longer steps."""
    chosen = f"SELECT rowid, {names} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
    at, step = -1, 1
    while at < _LARGEST_ROWID:
        try:
            for rowid, *row in source.execute(chosen, (at,)):
                yield tuple(row)
                at, step = max(at, rowid), 1
        except UNSOUND:
            at, step = at + step, 2 * step
        else:
            return


def _is_as_stored(row: tuple[Any, ...]) -> bool:
    """Say whether a row of all columns of an image has the right checksum."""
    number, path, size, mtime_ns, sha256, width, height, _, _, damaged, checksum = row
    facts = size, mtime_ns, sha256, width, height, damaged
    return record_of(number, path, facts, checksum) is not None


def _drop_orphans(connection: Connection) -> None:
    """Delete rows that refer to rows that are lost."""
    segments, images = (select(table.c.id) for table in (SEGMENTS, IMAGES))
    for lost in (
        delete(IMAGES).where(IMAGES.c.segment_id.not_in(segments)),
        delete(STAGED).where(STAGED.c.segment_id.not_in(segments)),
        delete(STAGED).where(STAGED.c.image_id.not_in(images)),
    ):
        connection.execute(lost)
