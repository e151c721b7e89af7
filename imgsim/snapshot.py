"""One instant of the catalog: every question that is put to its tables."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    text,
)

from imgsim.errors import EncoderMissing
from imgsim.files import absolute
from imgsim.tables import ENCODERS, IMAGES, PLACEMENTS, REFUSED, ROOTS, SEGMENTS
from imgsim.types import Damage, EncoderRecord, ImageRecord, Segment, StoredImage, Within

IN_LIMIT = 10_000
"""How many values a statement names; SQLite takes at most 32,766 parameters."""

_OR_LIMIT = 200  # SQLite takes expressions of a depth of 1,000


class Snapshot:
    """One instant of the catalog, whatever a writer commits meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def encoder(self) -> EncoderRecord:
        """Return the active encoder, or raise :class:`EncoderMissing`."""
        for record in self.encoders():
            if record.active:
                return record
        raise EncoderMissing("the collection has no encoder yet; run `imgsim train` first")

    def encoder_named(self, name: str) -> EncoderRecord:
        """Return the encoder with a name or fingerprint, or raise :class:`EncoderMissing`."""
        records = self.encoders()
        for record in records:
            if name in {record.name, record.fingerprint}:
                return record
        there = ", ".join(record.name for record in records) or "none"
        raise EncoderMissing(f"the collection has no encoder {name}; it has: {there}")

    def encoders(self) -> list[EncoderRecord]:
        """Return all encoders, the oldest first."""
        encoder = ENCODERS.c
        columns = encoder.id, encoder.fingerprint, encoder.dim, encoder.name, encoder.active
        rows = self._connection.execute(select(*columns).order_by(encoder.id))
        return [EncoderRecord(*row) for row in rows]

    def count_unplaced(self, encoder: EncoderRecord) -> int:
        """Return how many images have no vector of an encoder."""
        return self._connection.execute(
            select(func.count(IMAGES.c.id)).where(*_unplaced(encoder))
        ).scalar_one()

    def unplaced(self, encoder: EncoderRecord, after: int, most: int) -> dict[int, ImageRecord]:
        """Return up to ``most`` images without a vector of an encoder, with ids from ``after``."""
        ids = self._connection.execute(
            select(IMAGES.c.id)
            .where(IMAGES.c.id > after, *_unplaced(encoder))
            .order_by(IMAGES.c.id)
            .limit(most)
        )
        return dict(sorted(self.records(list(ids.scalars())).items()))

    def count_former(self) -> int:
        """Return the number of vectors of former encoders."""
        rows = select(func.coalesce(func.sum(SEGMENTS.c.rows), 0))
        former = rows.join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
        return self._connection.execute(former.where(ENCODERS.c.former)).scalar_one()

    def segments(self) -> list[Segment]:
        """Return the segments of the active encoder in the order of their images' ids."""
        first = (
            select(IMAGES.c.id)
            .where(IMAGES.c.segment_id == SEGMENTS.c.id)
            .order_by(IMAGES.c.row)
            .limit(1)
            .scalar_subquery()
        )
        rows = self._connection.execute(
            select(SEGMENTS.c.name, SEGMENTS.c.rows, SEGMENTS.c.dim, SEGMENTS.c.sha256)
            .join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
            .where(ENCODERS.c.active)
            .order_by(first, SEGMENTS.c.id)
        )
        return [Segment(*row) for row in rows]

    def spare_segments(self, encoder: EncoderRecord | None = None) -> list[Segment]:
        """Return the segments of encoders that are not active, or of one of these."""
        chosen = () if encoder is None else (ENCODERS.c.id == encoder.id,)
        rows = self._connection.execute(
            select(SEGMENTS.c.name, SEGMENTS.c.rows, SEGMENTS.c.dim, SEGMENTS.c.sha256)
            .join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
            .where(not_(ENCODERS.c.active), *chosen)
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
        whose = IMAGES.c.segment_id == ours, IMAGES.c.row < segment.rows
        admitted = [*whose, *_admitted(within or Within())]
        ids = np.full(segment.rows, -1, np.int64)
        offset, row = IMAGES.c.id - IMAGES.c.row, IMAGES.c.row
        ends = func.min(row), func.max(row), func.count(), func.min(offset), func.max(offset)
        whole = select(*ends).where(*admitted)
        runs: Sequence[Any] = self._connection.execute(whole).all()
        if runs[0][3] != runs[0][4]:  # there are gaps in the ids, as after a merge
            runs = self._connection.execute(whole.group_by(offset)).all()
        if all(last - first + 1 == count for first, last, count, _, _ in runs if count):
            for first, last, count, least, _ in runs:
                if count:
                    ids[first : last + 1] = np.arange(first + least, last + least + 1)
        else:
            found = self._connection.execute(select(row, IMAGES.c.id).where(*admitted))
            pairs = np.array(found.all(), np.int64)
            ids[pairs[:, 0]] = pairs[:, 1]
        return ids

    def dangling(self) -> dict[int, str]:
        """Return id and path of the images whose row is in no segment."""
        nowhere = or_(SEGMENTS.c.id.is_(None), IMAGES.c.row >= SEGMENTS.c.rows)
        rows = self._connection.execute(
            select(IMAGES.c.id, IMAGES.c.path)
            .outerjoin(SEGMENTS, IMAGES.c.segment_id == SEGMENTS.c.id)
            .where(nowhere)
        )
        return {number: os.fsdecode(path) for number, path in rows}

    def stamps(self, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (size, mtime_ns) of those of ``paths`` that are stored images."""
        rows = self._select_in(IMAGES.c.path, encoded(paths), IMAGES.c.size, IMAGES.c.mtime_ns)
        return {os.fsdecode(path): (size, mtime) for path, size, mtime in rows}

    def refusals(self, paths: Sequence[str]) -> dict[str, tuple[int, int, str]]:
        """Return (size, mtime_ns, reason) of those of ``paths`` that were refused."""
        columns = REFUSED.c.size, REFUSED.c.mtime_ns, REFUSED.c.reason
        rows = self._select_in(REFUSED.c.path, encoded(paths), *columns)
        return {os.fsdecode(path): (size, mtime, why) for path, size, mtime, why in rows}

    def with_content(self, sha256: bytes) -> tuple[StoredImage, ...]:
        """Return the images of the active encoder with this content, in the order of ids."""
        image, segment = IMAGES.c, SEGMENTS.c
        rows = self._connection.execute(
            select(image.id, image.path, image.width, image.height, image.row)
            .add_columns(segment.name, segment.rows, segment.dim, segment.sha256)
            .join(SEGMENTS, image.segment_id == segment.id)
            .join(ENCODERS, segment.encoder_id == ENCODERS.c.id)
            .where(image.sha256 == sha256, ENCODERS.c.active)
            .order_by(image.id)
        )
        return tuple(
            StoredImage(number, os.fsdecode(path), width, height, Segment(*facts), row)
            for number, path, width, height, row, *facts in rows
        )

    def paths(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the paths of the images with these ids."""
        rows = self._select_in(IMAGES.c.id, list(ids), IMAGES.c.path)
        return {image_id: os.fsdecode(path) for image_id, path in rows}

    def records(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Return the facts of the images with these ids."""
        image = IMAGES.c
        columns = image.path, image.size, image.mtime_ns, image.sha256, image.width, image.height
        return {
            number: ImageRecord(os.fsdecode(path), *facts)
            for number, path, *facts in self._select_in(image.id, ids, *columns)
        }

    def images_under(self, place: str) -> Iterator[tuple[str, int]]:
        """Yield path and id of the images at and below the path ``place``, by path."""
        columns = select(IMAGES.c.path, IMAGES.c.id).where(is_under(IMAGES.c.path, place))
        for path, number in self._connection.execute(columns.order_by(IMAGES.c.path)):
            yield os.fsdecode(path), number

    def count_under(self, places: Iterable[str]) -> int:
        """Return the number of images at and below at least one of some paths."""
        apart: list[str] = []
        for place in sorted(f"{absolute(place)}/" for place in places):
            if not (apart and place.startswith(apart[-1])):
                apart.append(place)
        total = 0
        for start in range(0, len(apart), _OR_LIMIT):
            inside = (is_under(IMAGES.c.path, place) for place in apart[start : start + _OR_LIMIT])
            count = select(func.count(IMAGES.c.id)).where(or_(*inside))
            total += self._connection.execute(count).scalar_one()
        return total

    def conflicts(self, old: str, new: str) -> list[str]:
        """Return the paths of images that others would get if ``old`` were moved to ``new``."""
        path, other = IMAGES.c.path, IMAGES.alias().c.path
        tail = func.substr(path, len(os.fsencode(old)) + 1)
        target = cast(literal(os.fsencode(new)).concat(tail), LargeBinary)
        both = select(other).join(IMAGES, other == target).where(is_under(path, old))
        rows = self._connection.execute(both.where(not_(is_under(other, old))).order_by(other))
        return [os.fsdecode(found) for found in rows.scalars()]

    def refused_under(self, place: str) -> dict[str, str]:
        """Return path and reason of the refused files at and below the path ``place``."""
        columns = select(REFUSED.c.path, REFUSED.c.reason).where(is_under(REFUSED.c.path, place))
        rows = self._connection.execute(columns.order_by(REFUSED.c.path))
        return {os.fsdecode(path): reason for path, reason in rows}

    def roots(self) -> list[str]:
        """Return the folders that were ingested."""
        paths = self._connection.execute(select(ROOTS.c.path).order_by(ROOTS.c.path)).scalars()
        return [os.fsdecode(path) for path in paths]

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
        """Return what is wrong with the catalog at ``path``."""
        verdicts = self._connection.execute(text("PRAGMA integrity_check")).scalars()
        damages = [Damage(str(path), "a sound database", v) for v in verdicts if v != "ok"]
        dangling = len(self.dangling())
        if dangling:
            found = f"{dangling:,} images that are not"
            damages.append(Damage(str(path), "every image in a row of a segment", found))
        return damages

    def _select_in(
        self, key: Column[Any], values: Sequence[object], *columns: Column[Any]
    ) -> Iterator[Sequence[Any]]:
        for start in range(0, len(values), IN_LIMIT):
            chosen = key.in_(values[start : start + IN_LIMIT])
            yield from self._connection.execute(select(key, *columns).where(chosen))


def encoded(paths: Sequence[str]) -> list[bytes]:
    """Return paths as the tables hold them."""
    return [os.fsencode(path) for path in paths]


def _unplaced(encoder: EncoderRecord) -> Iterator[ColumnElement[bool]]:
    """Yield the condition on images that they have no vector of an encoder."""
    if encoder.active:
        yield false()
    place = PLACEMENTS.c
    theirs = select(place.image_id).join(SEGMENTS, place.segment_id == SEGMENTS.c.id)
    yield IMAGES.c.id.not_in(theirs.where(SEGMENTS.c.encoder_id == encoder.id))


def _admitted(within: Within) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on the paths of images."""
    if within.under:
        yield or_(*(is_under(IMAGES.c.path, place) for place in within.under))
    for place in within.not_under:
        yield not_(is_under(IMAGES.c.path, place))


def is_under(column: Column[bytes], place: str) -> ColumnElement[bool]:
    """Return the condition that a path is that of ``place``, or below it."""
    path = os.fsencode(absolute(place)).rstrip(b"/")
    inside = and_(column > path + b"/", column < path + b"0")  # 0 comes after /
    return or_(column == path, inside)
