"""The catalog: what exists, and every query on its tables."""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, OperationalError

from imgsim.database import engine_of, upgrade
from imgsim.errors import (
    CollectionDamaged,
    CollectionError,
    EncoderError,
    EncoderMismatch,
)
from imgsim.snapshot import IN_LIMIT, Snapshot, encoded, is_under
from imgsim.tables import ENCODERS, IMAGES, PLACEMENTS, REFUSED, ROOTS, SEGMENTS
from imgsim.types import (
    EncoderRecord,
    ImageFile,
    ImageRecord,
    Refusal,
    Segment,
)

_SHORT = 12  # digits of a fingerprint that name an encoder


class Catalog:
    """The SQLite file ``catalog.db`` of a collection."""

    def __init__(self, path: Path) -> None:
        """Open the catalog at ``path``, created if missing, and bring its schema up to date."""
        self._path = path
        self._engine = engine_of(path)
        try:
            upgrade(self._engine, path)
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

    def add_encoder(
        self, fingerprint: str, dim: int, name: str | None = None, *, instead: bool = False
    ) -> EncoderRecord:
        """Commit an encoder, which becomes the active one if there are no images yet.

        Its name is what the fingerprint begins with unless it gets one. Raises
        :class:`EncoderError` if another encoder has the name; with ``instead``, that loses it.
        """
        with self._transaction() as connection:
            snapshot = Snapshot(connection)
            if instead and name is not None:
                theirs = ENCODERS.c.name == name, ENCODERS.c.fingerprint != fingerprint
                short = func.substr(ENCODERS.c.fingerprint, 1, _SHORT)
                connection.execute(update(ENCODERS).where(*theirs).values(name=short))
            known = {record.fingerprint: record for record in snapshot.encoders()}
            chosen = name or fingerprint[:_SHORT]
            refuse_taken(known.values(), chosen, fingerprint)
            if fingerprint not in known:
                facts = {"fingerprint": fingerprint, "dim": dim, "created_at": _now()}
                connection.execute(insert(ENCODERS).values(active=False, name=chosen, **facts))
            elif name is not None:
                ours = ENCODERS.c.fingerprint == fingerprint
                connection.execute(update(ENCODERS).where(ours).values(name=name))
            if not snapshot.count_images():
                _activate(connection, snapshot.encoder_named(fingerprint).id)
            return snapshot.encoder_named(fingerprint)

    def use_encoder(self, encoder: EncoderRecord) -> None:
        """Commit that the vectors of another encoder are the collection's.

        The present ones stay as those of a former encoder. Raises :class:`EncoderMismatch` if not
        every image has a vector of it.
        """
        with self._transaction() as connection:
            missing = Snapshot(connection).count_unplaced(encoder)
            if missing:
                raise EncoderMismatch(
                    f"{missing:,} images have no vector of {encoder.name}; "
                    f"run `imgsim reencode --encoder {encoder.name}`"
                )
            if not encoder.active:
                _swap_placements(connection, encoder.id)
                _activate(connection, encoder.id)

    def commit_placements(
        self, encoder: EncoderRecord, segment: Segment, ids: Sequence[int]
    ) -> None:
        """Commit vectors of an encoder that is not active: row i is the image ``ids[i]``.

        With a segment that is committed already, nothing.
        """
        with self._transaction() as connection:
            if segment.name in Snapshot(connection).segment_names():
                return
            segment_id = _insert_segment(connection, segment, encoder.id)
            present = Snapshot(connection).paths(ids)
            rows = [
                {"image_id": number, "segment_id": segment_id, "row": row}
                for row, number in enumerate(ids)
                if number in present
            ]
            if rows:
                connection.execute(insert(PLACEMENTS), rows)

    def keep_encoder(self, encoder: EncoderRecord) -> None:
        """Commit that the vectors of an encoder, if there are any, are wanted again."""
        with self._transaction() as connection:
            ours = ENCODERS.c.id == encoder.id
            connection.execute(update(ENCODERS).where(ours).values(former=False))

    def forget_former(self) -> None:
        """Commit that the vectors of former encoders are no more."""
        with self._transaction() as connection:
            former = select(ENCODERS.c.id).where(ENCODERS.c.former)
            _delete_segments(connection, SEGMENTS.c.encoder_id.in_(former))

    def forget_spare(self, segments: Sequence[Segment]) -> None:
        """Commit that segments of encoders that are not active are no more."""
        with self._transaction() as connection:
            _delete_segments(connection, SEGMENTS.c.name.in_([each.name for each in segments]))

    def forget_encoder(self, encoder: EncoderRecord) -> None:
        """Commit that an encoder that is not active is no more, nor its vectors."""
        with self._transaction() as connection:
            _delete_segments(connection, SEGMENTS.c.encoder_id == encoder.id)
            connection.execute(delete(ENCODERS).where(ENCODERS.c.id == encoder.id))

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


def refuse_taken(encoders: Iterable[EncoderRecord], name: str, fingerprint: str = "") -> None:
    """Raise :class:`EncoderError` if another encoder than that of a fingerprint has the name."""
    if any(each.name == name and each.fingerprint != fingerprint for each in encoders):
        raise EncoderError(f"another encoder has the name {name}; choose one with --name")


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


def _activate(connection: Connection, encoder_id: int) -> None:
    connection.execute(update(ENCODERS).where(ENCODERS.c.active).values(active=False, former=True))
    ours = ENCODERS.c.id == encoder_id
    connection.execute(update(ENCODERS).where(ours).values(active=True, former=False))


def _swap_placements(connection: Connection, encoder_id: int) -> None:
    """Exchange the vectors of all images for those of an encoder that has one of each."""
    place, image = PLACEMENTS.c, IMAGES.c
    present = select(image.id, image.segment_id, image.row)
    connection.execute(insert(PLACEMENTS).from_select(["image_id", "segment_id", "row"], present))
    theirs = select(SEGMENTS.c.id).where(SEGMENTS.c.encoder_id == encoder_id)
    ours = place.segment_id.in_(theirs)
    connection.execute(
        update(IMAGES)
        .where(image.id == place.image_id, ours)
        .values(segment_id=place.segment_id, row=place.row)
    )
    connection.execute(delete(PLACEMENTS).where(ours))


def _insert_segment(connection: Connection, segment: Segment, encoder_id: int = 0) -> int:
    """Insert a segment of an encoder, or else of the active one, and return its id."""
    encoder_id = encoder_id or Snapshot(connection).encoder().id
    fields = {"encoder_id": encoder_id, "created_at": _now()}
    added = insert(SEGMENTS).values(**asdict(segment), **fields)
    return connection.execute(added.returning(SEGMENTS.c.id)).scalar_one()


def _now() -> int:
    """Return the time in seconds since the epoch."""
    return int(time.time())


def _delete_segments(connection: Connection, chosen: ColumnElement[bool]) -> None:
    """Delete segments of encoders that are not active."""
    theirs = select(SEGMENTS.c.id).where(chosen)
    connection.execute(delete(PLACEMENTS).where(PLACEMENTS.c.segment_id.in_(theirs)))
    connection.execute(delete(SEGMENTS).where(chosen))


def _delete_paths(connection: Connection, table: Table, paths: Sequence[bytes]) -> None:
    for start in range(0, len(paths), IN_LIMIT):
        chosen = table.c.path.in_(paths[start : start + IN_LIMIT])
        connection.execute(delete(table).where(chosen))
