"""What is wrong with a catalog, as far as it can be read."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from sqlalchemy import and_, exists, false, func, not_, select, text

from imgsim.catalog.checksums import IMAGE_FACTS, record_of
from imgsim.catalog.functions import IsOf
from imgsim.catalog.judgements import radii
from imgsim.catalog.schema import (
    ENCODERS,
    FIT_JUDGED,
    FIT_REFUSED,
    FIT_ROOT,
    IMAGES,
    IN_SEGMENT,
    JUDGED,
    REFUSED,
    ROOTS,
    SEGMENTS,
    STAGED,
)
from imgsim.catalog.snapshot import IN_LIMIT, SEGMENT_FACTS, Snapshot
from imgsim.errors import CollectionDamaged
from imgsim.records import (
    FINGERPRINT,
    SEGMENT_NAME,
    EncoderRecord,
    ImageRecord,
    Segment,
    packed,
)
from imgsim.results import Damage

STAGED_FITS = and_(
    STAGED.c.image_id.in_(select(IMAGES.c.id)),
    IsOf(STAGED.c.row, "integer"),
    exists()
    .where(SEGMENTS.c.encoder_id == ENCODERS.c.id, not_(ENCODERS.c.active))
    .where(SEGMENTS.c.id == STAGED.c.segment_id, STAGED.c.row.between(0, SEGMENTS.c.rows - 1))
    .correlate(STAGED),
)
"""The condition that a row of ``staged`` is in a segment of an encoder that is not active."""


def damages(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield what is wrong with the catalog."""
    path = str(snapshot.path)
    if snapshot.connection.dialect.name == "sqlite":
        for verdict in snapshot.connection.execute(text("PRAGMA integrity_check")).scalars():
            if verdict != "ok":
                yield Damage(path, "a sound database", verdict)
    for number in altered(snapshot):
        yield Damage(path, f"image {number} as it was stored", "other facts")
    try:
        snapshot.verify()
    except CollectionDamaged as error:
        yield Damage(path, error.expected, error.found)
        notes = []
    else:
        notes = list(wrong_removed(snapshot))
    lost = len(dangling(snapshot))
    if lost:
        yield Damage(path, "every image in a row of a segment", f"{lost:,} images that are not")
    for segment, _ in notes:
        found = f"another note in segment {segment.name}"
        yield Damage(path, "a note of which rows no image uses", found)
    yield from _unfit(snapshot)


def _unfit(snapshot: Snapshot) -> Iterator[Damage]:
    """Yield what is wrong with tables whose rows stand alone."""
    path = str(snapshot.path)
    for what, table, fits in (
        ("embeddings of other encoders in rows of segments", STAGED, STAGED_FITS),
        ("refused files", REFUSED, FIT_REFUSED),
        ("folders", ROOTS, FIT_ROOT),
        ("pairs that are no duplicates", JUDGED, FIT_JUDGED),
    ):
        count = snapshot.connection.execute(
            select(func.count()).select_from(table).where(not_(fits))
        )
        if unfit := count.scalar_one():
            yield Damage(path, what, f"{unfit:,} that are none")
    if altered_radii := sum(found is None for _, found in radii(snapshot.connection)):
        yield Damage(path, "distances of duplicates as stored", f"{altered_radii:,} others")


def altered(snapshot: Snapshot) -> dict[int, str]:
    """Return id and path of the images whose facts are not those that were stored."""
    return {
        number: _shown(path)
        for number, path, *facts, checksum in snapshot.connection.execute(IMAGE_FACTS)
        if record_of(number, path, facts, checksum) is None
    }


def dangling(snapshot: Snapshot) -> dict[int, str]:
    """Return id and path of the images that are in no row of a segment of the active encoder."""
    rows = (
        select(IMAGES.c.id, IMAGES.c.path)
        .outerjoin(SEGMENTS, IMAGES.c.segment_id == SEGMENTS.c.id)
        .outerjoin(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
        .where(not_(func.coalesce(and_(ENCODERS.c.active, IN_SEGMENT), false())))
    )
    return {number: _shown(path) for number, path in snapshot.connection.execute(rows)}


def shown_paths(snapshot: Snapshot, ids: Sequence[int]) -> dict[int, str]:
    """Return the paths of images, which may be altered."""
    found = dict[int, str]()
    for start in range(0, len(ids), IN_LIMIT):
        chosen = IMAGES.c.id.in_(ids[start : start + IN_LIMIT])
        rows = snapshot.connection.execute(select(IMAGES.c.id, IMAGES.c.path).where(chosen))
        found |= {number: _shown(path) for number, path in rows}
    return found


def _shown(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, bytes | str) else repr(path)


def sound_images(snapshot: Snapshot) -> Iterator[list[ImageRecord]]:
    """Yield the images whose facts are those that were stored, some at a time."""
    for part in snapshot.connection.execute(IMAGE_FACTS).partitions(IN_LIMIT):
        found = (
            record_of(number, path, facts, checksum) for number, path, *facts, checksum in part
        )
        yield [image for image in found if image is not None]


def fit_encoders(snapshot: Snapshot) -> list[EncoderRecord]:
    """Return the encoders that can be: of a catalog that may be damaged."""
    encoder = ENCODERS.c
    columns = encoder.id, encoder.fingerprint, encoder.dim, encoder.name, encoder.active
    rows = snapshot.connection.execute(select(*columns).order_by(encoder.id))
    return [EncoderRecord(*row) for row in rows if is_encoder(*row[1:3])]


def fit_segments(snapshot: Snapshot) -> tuple[list[Segment], list[Segment]]:
    """Return the segments that can be, of the active encoder and of others."""
    both: tuple[list[Segment], list[Segment]] = [], []
    owned = select(ENCODERS.c.active).add_columns(*SEGMENT_FACTS).order_by(SEGMENTS.c.id)
    rows = owned.outerjoin_from(SEGMENTS, ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
    for active, *facts in snapshot.connection.execute(rows):
        if is_segment(*facts):
            both[not active].append(Segment(*facts))
    return both


def is_encoder(fingerprint: object, dim: object) -> bool:
    """Say whether an encoder can be so."""
    return _is_text(FINGERPRINT, fingerprint) and is_size(dim)


def is_segment(name: object, rows: object, dim: object, sha256: object) -> bool:
    """Say whether a segment can be so."""
    texts = _is_text(SEGMENT_NAME, name) and _is_text(FINGERPRINT, sha256)
    return texts and is_size(rows) and is_size(dim)


def _is_text(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def is_size(value: object) -> TypeGuard[int]:
    """Say whether a segment can have so many rows, or values in a row."""
    return isinstance(value, int) and value > 0


def wrong_removed(snapshot: Snapshot) -> Iterator[tuple[Segment, bytes | None]]:
    """Yield segments of which a wrong note says which rows no image uses, and the right one."""
    chosen = select(SEGMENTS.c.removed).add_columns(*SEGMENT_FACTS)
    for noted, *facts in snapshot.connection.execute(chosen).all():
        found = Segment(*facts)
        right = packed(snapshot.segment_ids(found) < 0).tobytes() or None
        if (noted or bytes(-(-found.rows // 8))) != (right or bytes(-(-found.rows // 8))):
            yield found, right
