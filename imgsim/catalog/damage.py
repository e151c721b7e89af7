"""What is wrong with a catalog, as far as it can be read."""

import os
from collections.abc import Iterator

from sqlalchemy import or_, select, text

from imgsim.catalog.checksums import IMAGE_FACTS, record_of
from imgsim.catalog.schema import IMAGES, SEGMENTS
from imgsim.catalog.snapshot import SEGMENT_FACTS, Snapshot
from imgsim.errors import CollectionDamaged
from imgsim.records import Segment, packed
from imgsim.results import Damage


def damages(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield what is wrong with the catalog."""
    path = str(snapshot.path)
    for verdict in snapshot.connection.execute(text("PRAGMA integrity_check")).scalars():
        if verdict != "ok":
            yield Damage(path, "a sound database", verdict)
    for number in altered(snapshot):
        yield Damage(path, f"image {number} as it was stored", "other facts")
    try:
        snapshot.verify()
    except CollectionDamaged as error:
        yield Damage(path, error.expected, error.found)
    lost = len(dangling(snapshot))
    if lost:
        yield Damage(path, "every image in a row of a segment", f"{lost:,} images that are not")
    for segment, _ in wrong_removed(snapshot):
        found = f"another note in segment {segment.name}"
        yield Damage(path, "a note of which rows no image uses", found)


def altered(snapshot: Snapshot) -> dict[int, str]:
    """Return id and path of the images whose facts are not those that were stored."""
    return {
        number: os.fsdecode(path or b"")
        for number, path, *facts, checksum in snapshot.connection.execute(IMAGE_FACTS)
        if record_of(number, path, facts, checksum) is None
    }


def dangling(snapshot: Snapshot) -> dict[int, str]:
    """Return id and path of the images whose row is in no segment."""
    nowhere = or_(SEGMENTS.c.id.is_(None), IMAGES.c.row >= SEGMENTS.c.rows)
    rows = snapshot.connection.execute(
        select(IMAGES.c.id, IMAGES.c.path)
        .outerjoin(SEGMENTS, IMAGES.c.segment_id == SEGMENTS.c.id)
        .where(nowhere)
    )
    return {number: os.fsdecode(path or b"") for number, path in rows}


def wrong_removed(snapshot: Snapshot) -> Iterator[tuple[Segment, bytes | None]]:
    """Yield segments of which a wrong note says which rows no image uses, and the right one."""
    chosen = select(SEGMENTS.c.removed).add_columns(*SEGMENT_FACTS)
    for noted, *facts in snapshot.connection.execute(chosen).all():
        found = Segment(*facts)
        right = packed(snapshot.segment_ids(found) < 0).tobytes() or None
        if (noted or bytes(-(-found.rows // 8))) != (right or bytes(-(-found.rows // 8))):
            yield found, right
