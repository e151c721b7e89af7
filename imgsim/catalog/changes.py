"""Changes to the tables, each within a transaction of the catalog."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import TypeVar

import numpy as np
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    not_,
    select,
    update,
)

from imgsim.catalog.checksums import IMAGE_FACTS, image_sum, seal_of
from imgsim.catalog.damage import STAGED_FITS, wrong_removed
from imgsim.catalog.judgements import delete_damaged_radii
from imgsim.catalog.paths import encoded, is_under
from imgsim.catalog.schema import (
    ENCODERS,
    FIT_JUDGED,
    FIT_REFUSED,
    FIT_ROOT,
    IMAGES,
    JUDGED,
    REFUSED,
    ROOTS,
    SEALS,
    SEGMENTS,
    SEQUENCES,
    STAGED,
)
from imgsim.catalog.snapshot import IN_LIMIT, Snapshot
from imgsim.records import ImageFile, ImageRecord, Segment, packed, unpacked
from imgsim.results import Refusal

LARGEST_ID = 1 << 40
"""A greater one is damage."""

_T = TypeVar("_T")

Place = tuple[int, int]
"""A segment's id and a row of it."""


def _joined(prefix: bytes, tail: ColumnElement[bytes]) -> ColumnElement[bytes]:
    return cast(literal(prefix).concat(tail), LargeBinary)


def update_stamps(connection: Connection, stamps: Sequence[tuple[int, ImageRecord]]) -> None:
    """Note where images are now, by id; another image at the path gives way."""
    stored = Snapshot(connection).records([number for number, _ in stamps])
    for number, image in stamps:
        path = os.fsencode(image.path)
        delete_images(connection, and_(IMAGES.c.path == path, IMAGES.c.id != number))
        connection.execute(delete(REFUSED).where(REFUSED.c.path == path))
        now = replace(stored[number], path=image.path, size=image.size, mtime_ns=image.mtime_ns)
        fields = {"path": path, "size": now.size, "mtime_ns": now.mtime_ns}
        fields["checksum"] = image_sum(number, now)
        connection.execute(update(IMAGES).where(IMAGES.c.id == number).values(**fields))


def insert_images(
    connection: Connection, segment: Segment, images: Mapping[int, ImageRecord]
) -> None:
    """Insert a segment and the images of its rows, in order, by id."""
    segment_id = insert_segment(connection, segment)
    rows = [
        vars(image)
        | {"id": number, "path": os.fsencode(image.path), "segment_id": segment_id, "row": row}
        | {"checksum": image_sum(number, image)}
        for row, (number, image) in enumerate(images.items())
    ]
    forget_paths(connection, [image.path for image in images.values()])
    connection.execute(insert(IMAGES), rows)
    if connection.dialect.name != "sqlite":  # which does it by itself
        renew_last_id(connection, max(images))


def insert_refusals(connection: Connection, refused: Sequence[tuple[ImageFile, Refusal]]) -> None:
    """Insert refused files, whatever was known of their paths."""
    rows = [
        {
            "path": os.fsencode(file.path),
            "size": file.size,
            "mtime_ns": file.mtime_ns,
            "reason": refusal.reason,
        }
        for file, refusal in refused
    ]
    forget_paths(connection, [file.path for file, _ in refused])
    if rows:
        connection.execute(insert(REFUSED), rows)


def activate(connection: Connection, encoder_id: int) -> None:
    """Make an encoder the active one, and the one that was a previous one."""
    connection.execute(
        update(ENCODERS).where(ENCODERS.c.active).values(active=False, previous=True)
    )
    ours = ENCODERS.c.id == encoder_id
    connection.execute(update(ENCODERS).where(ours).values(active=True, previous=False))


def swap_staged(connection: Connection, encoder_id: int) -> None:
    """Exchange the embeddings of all images for those of an encoder that has one of each."""
    place, image = STAGED.c, IMAGES.c
    present = select(image.id, image.segment_id, image.row)
    connection.execute(insert(STAGED).from_select(["image_id", "segment_id", "row"], present))
    theirs = select(SEGMENTS.c.id).where(SEGMENTS.c.encoder_id == encoder_id)
    ours = place.segment_id.in_(theirs)
    connection.execute(
        update(IMAGES)
        .where(image.id == place.image_id, ours)
        .values(segment_id=place.segment_id, row=place.row)
    )
    connection.execute(delete(STAGED).where(ours))


def insert_segment(connection: Connection, segment: Segment, encoder_id: int = 0) -> int:
    """Insert a segment of an encoder, or else of the active one, and return its id."""
    active = select(ENCODERS.c.id).where(ENCODERS.c.active).scalar_subquery()
    fields = {"encoder_id": encoder_id or active, "created_at": now()}
    added = insert(SEGMENTS).values(**asdict(segment), **fields)
    return connection.execute(added.returning(SEGMENTS.c.id)).scalar_one()


def now() -> int:
    """Return the time in seconds since the epoch."""
    return int(time.time())


def delete_segments(connection: Connection, chosen: ColumnElement[bool]) -> None:
    """Delete segments of encoders that are not active."""
    theirs = select(SEGMENTS.c.id).where(chosen)
    connection.execute(delete(STAGED).where(STAGED.c.segment_id.in_(theirs)))
    connection.execute(delete(SEGMENTS).where(chosen))


def forget_paths(connection: Connection, paths: Sequence[str]) -> None:
    """Delete the images and the refused files at some paths."""
    for some in _some(encoded(paths)):
        delete_images(connection, IMAGES.c.path.in_(some))
        connection.execute(delete(REFUSED).where(REFUSED.c.path.in_(some)))


def forget_images(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the images with these ids."""
    for some in _some(ids):
        delete_images(connection, IMAGES.c.id.in_(some))


def delete_staged(connection: Connection, staged: Sequence[tuple[int, str]]) -> None:
    """Delete embeddings by encoders that are not active, by image and name of segment."""
    for number, name in staged:
        theirs = select(SEGMENTS.c.id).where(SEGMENTS.c.name == name).scalar_subquery()
        chosen = STAGED.c.image_id == number, STAGED.c.segment_id == theirs
        connection.execute(delete(STAGED).where(*chosen))


def delete_in(connection: Connection, column: Column[_T], values: Sequence[_T]) -> None:
    """Delete the rows of a table whose column has one of some values."""
    for some in _some(values):
        connection.execute(delete(column.table).where(column.in_(some)))


def delete_images(connection: Connection, chosen: ColumnElement[bool]) -> None:
    """Delete images, and note that their rows are no image's any more."""
    image, staged = IMAGES.c, STAGED.c
    found = connection.execute(select(image.id, image.segment_id, image.row).where(chosen)).all()
    if not found:
        return
    places: list[Place] = [(segment, row) for _, segment, row in found]
    for some in _some([number for number, _, _ in found]):
        theirs = select(staged.segment_id, staged.row).where(staged.image_id.in_(some))
        places += [(segment, row) for segment, row in connection.execute(theirs)]
    note_removed(connection, places)
    connection.execute(delete(IMAGES).where(chosen))


def leave_rows(connection: Connection, ids: Sequence[int]) -> None:
    """Note that the rows of some images, which go elsewhere, are no image's any more."""
    for some in _some(ids):
        places = select(IMAGES.c.segment_id, IMAGES.c.row).where(IMAGES.c.id.in_(some))
        note_removed(connection, [(segment, row) for segment, row in connection.execute(places)])


def note_removed(connection: Connection, places: Sequence[Place]) -> None:
    """Set the bits of rows that no image uses."""
    segment = SEGMENTS.c
    numbers = (p for p in places if all(isinstance(part, int) for part in p))  # unless damaged
    for number, rows in groupby(sorted(numbers), key=lambda place: place[0]):
        facts = select(segment.rows, segment.removed).where(segment.id == number)
        found = connection.execute(facts).one_or_none()
        if found is None:  # a damaged catalog may have images of a segment that is lost
            continue
        count, before = found
        flags = unpacked(np.frombuffer(before or b"", np.uint8), count)
        flags[[row for _, row in rows if 0 <= row < count]] = True
        after = packed(flags).tobytes()
        connection.execute(update(SEGMENTS).where(segment.id == number).values(removed=after))


def move_paths(connection: Connection, old: str, new: str) -> None:
    """Put everything at and below the path ``old``, and only that, at ``new``."""
    ids = [number for _, number in Snapshot(connection).images_under(old)]
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
    _renew_checksums(connection, ids)


def _renew_checksums(connection: Connection, ids: Sequence[int]) -> None:
    """Note the checksums of images whose facts have changed."""
    changed = update(IMAGES).where(IMAGES.c.id == bindparam("image_id"))
    for some in _some(ids):
        rows = [
            {"image_id": number, "new": image_sum(number, ImageRecord(os.fsdecode(path), *facts))}
            for number, path, *facts, _ in connection.execute(
                IMAGE_FACTS.where(IMAGES.c.id.in_(some))
            )
        ]
        connection.execute(changed.values(checksum=bindparam("new")), rows)


def renew_removed(connection: Connection) -> None:
    """Note anew which rows no image uses."""
    for segment, removed in wrong_removed(Snapshot(connection)):
        ours = SEGMENTS.c.name == segment.name
        connection.execute(update(SEGMENTS).where(ours).values(removed=removed))


def renew_last_id(connection: Connection, least: int) -> None:
    """Note the greatest id that was given out, which is at least so and that of each image."""
    image, run = IMAGES.c, connection.execute
    stored = run(select(func.max(image.id)).where(image.id <= LARGEST_ID)).scalar()
    noted = run(select(SEQUENCES.c.seq)).scalars().all()
    fit = [number for number in noted if isinstance(number, int) and number <= LARGEST_ID]
    run(delete(SEQUENCES))
    run(insert(SEQUENCES).values(name="images", seq=max(0, least, stored or 0, *fit)))


def defer_foreign_keys(connection: Connection) -> None:
    """Let rows refer to rows that are not there, until the end of the transaction."""
    is_sqlite = connection.dialect.name == "sqlite"
    deferring = "PRAGMA defer_foreign_keys=ON" if is_sqlite else "SET CONSTRAINTS ALL DEFERRED"
    connection.exec_driver_sql(deferring)


def delete_unfit(connection: Connection) -> None:
    """Delete what is in no row of a segment, or of wrong types, but for images."""
    for table, fits in (
        *((STAGED, STAGED_FITS), (REFUSED, FIT_REFUSED)),
        *((ROOTS, FIT_ROOT), (JUDGED, FIT_JUDGED)),
    ):
        connection.execute(delete(table).where(not_(fits)))
    delete_damaged_radii(connection)


def no_row(number: int) -> int:
    """Return what an image has for a row until it has one; no other image has it."""
    return -2 * LARGEST_ID - number


def put_images(connection: Connection, places: Mapping[int, tuple[str, int]]) -> None:
    """Note that images are in other rows, by the names of segments."""
    numbers = connection.execute(select(SEGMENTS.c.name, SEGMENTS.c.id))
    ids = {name: int(number) for name, number in numbers}
    changed = update(IMAGES).where(IMAGES.c.id == bindparam("image_id"))
    free = [
        {"image_id": number, "segment": ids[name], "free": no_row(number)}
        for number, (name, _) in places.items()
    ]
    right = [{"image_id": number, "right": row} for number, (_, row) in places.items()]
    if places:  # first to rows that no other image can have
        away = changed.values(segment_id=bindparam("segment"), row=bindparam("free"))
        connection.execute(away, free)
        connection.execute(changed.values(row=bindparam("right")), right)


def seal(connection: Connection) -> None:
    """Note the checksum of all encoders and segments and the greatest id, if it is another."""
    checksum = seal_of(Snapshot(connection).said)
    if connection.execute(select(SEALS.c.checksum)).scalars().all() != [checksum]:
        connection.execute(delete(SEALS))
        connection.execute(insert(SEALS).values(id=1, checksum=checksum))


def _some(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield as many of the values at a time as a statement may name."""
    for start in range(0, len(values), IN_LIMIT):
        yield values[start : start + IN_LIMIT]
