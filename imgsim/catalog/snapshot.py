"""One instant of the catalog: every question that is put to its tables."""

import os
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    text,
)

from imgsim.catalog.paths import apart, encoded, is_under
from imgsim.catalog.schema import ENCODERS, IMAGES, REFUSED, ROOTS, SEGMENTS, STAGED
from imgsim.errors import EncoderMissing
from imgsim.options import SearchFilter, listed
from imgsim.records import (
    EncoderRecord,
    ImageRecord,
    Segment,
    SegmentRows,
    StoredImage,
    packed,
    unpacked,
)
from imgsim.results import Damage, ImageInfo

IN_LIMIT = 10_000
"""How many values a statement names; SQLite takes at most 32,766 parameters."""

_SEGMENT = SEGMENTS.c.name, SEGMENTS.c.rows, SEGMENTS.c.dim, SEGMENTS.c.sha256
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

    def count_unstaged(self, encoder: EncoderRecord) -> int:
        """Return how many images have no embedding by an encoder."""
        return self._connection.execute(
            select(func.count(IMAGES.c.id)).where(*_unstaged(encoder))
        ).scalar_one()

    def unstaged(self, encoder: EncoderRecord, after: int, most: int) -> dict[int, ImageRecord]:
        """Return up to ``most`` images without an embedding by an encoder, ids from ``after``."""
        ids = self._connection.execute(
            select(IMAGES.c.id)
            .where(IMAGES.c.id > after, *_unstaged(encoder))
            .order_by(IMAGES.c.id)
            .limit(most)
        )
        return dict(sorted(self.records(list(ids.scalars())).items()))

    def count_previous(self) -> int:
        """Return the number of embeddings by previous encoders."""
        rows = select(func.coalesce(func.sum(SEGMENTS.c.rows), 0))
        previous = rows.join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
        return self._connection.execute(previous.where(ENCODERS.c.previous)).scalar_one()

    def segments(self) -> list[Segment]:
        """Return the segments of the active encoder in the order of their images' ids."""
        return [each.segment for each in self.segment_rows()]

    def segment_rows(self, within: SearchFilter | None = None) -> list[SegmentRows]:
        """Return the segments of the active encoder with the rows that images use.

        They are in the order of their images' ids. Rows count whose image's path ``within`` admits;
        the time for that grows with the images in the folders that it names.
        """
        segment = SEGMENTS.c
        first = (
            select(IMAGES.c.id)
            .where(IMAGES.c.segment_id == segment.id)
            .order_by(IMAGES.c.row)
            .limit(1)
            .scalar_subquery()
        )
        rows = self._connection.execute(
            select(segment.id, segment.removed)
            .add_columns(*_SEGMENT)
            .join(ENCODERS, segment.encoder_id == ENCODERS.c.id)
            .where(ENCODERS.c.active)
            .order_by(first, segment.id)
        )
        found = [(number, removed, Segment(*facts)) for number, removed, *facts in rows]
        under = self._rows_under(listed(within.under)) if within else {}
        not_under = self._rows_under(listed(within.not_under)) if within else {}
        everywhere = not (within and within.under)
        return [
            SegmentRows(
                segment,
                _excluded(
                    segment.rows,
                    removed,
                    None if everywhere else under.get(number, []),
                    not_under.get(number, []),
                ),
            )
            for number, removed, segment in found
        ]

    def _rows_under(self, places: Sequence[str]) -> dict[int, list[int]]:
        """Return for each segment its rows whose images are at and below some paths."""
        found: dict[int, list[int]] = {}
        for start in range(0, len(places), _OR_LIMIT):
            inside = or_(
                *(is_under(IMAGES.c.path, place) for place in places[start : start + _OR_LIMIT])
            )
            pairs = select(IMAGES.c.segment_id, IMAGES.c.row).where(inside)
            for part in self._connection.execute(pairs).partitions(IN_LIMIT):
                for segment, row in part:
                    found.setdefault(segment, []).append(row)
        return found

    def next_id(self) -> int:
        """Return the id that the next image gets; ids are never used again."""
        last = text("SELECT seq FROM sqlite_sequence WHERE name = 'images'")
        return (self._connection.execute(last).scalar_one_or_none() or 0) + 1

    def spare_segments(self, encoder: EncoderRecord | None = None) -> list[Segment]:
        """Return the segments of encoders that are not active, or of one of these."""
        chosen = () if encoder is None else (ENCODERS.c.id == encoder.id,)
        rows = self._connection.execute(
            select(*_SEGMENT)
            .join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
            .where(not_(ENCODERS.c.active), *chosen)
            .order_by(SEGMENTS.c.id)
        )
        return [Segment(*row) for row in rows]

    def segment_names(self) -> list[str]:
        """Return the names of all segments, whichever encoder made them."""
        return list(self._connection.execute(select(SEGMENTS.c.name)).scalars())

    def segment_ids(self, segment: Segment) -> NDArray[np.int64]:
        """Return the image id of each row of a segment, -1 for a row that no image uses.

        The segment may be of any encoder.
        """
        ids = np.full(segment.rows, -1, np.int64)
        ours = select(SEGMENTS.c.id).where(SEGMENTS.c.name == segment.name).scalar_subquery()
        image, staged = IMAGES.c, STAGED.c
        for key, number, row in (
            (image.segment_id, image.id, image.row),
            (staged.segment_id, staged.image_id, staged.row),
        ):
            rows = select(row, number).where(key == ours, row < segment.rows)
            for part in self._connection.execute(rows).partitions(IN_LIMIT):
                pairs = np.array([tuple(pair) for pair in part], np.int64)
                ids[pairs[:, 0]] = pairs[:, 1]
        return ids

    def wrong_removed(self) -> Iterator[tuple[Segment, bytes | None]]:
        """Yield segments of which a wrong note says which rows no image uses, and the right one."""
        chosen = select(SEGMENTS.c.removed).add_columns(*_SEGMENT)
        for noted, *facts in self._connection.execute(chosen).all():
            found = Segment(*facts)
            right = packed(self.segment_ids(found) < 0).tobytes() or None
            if (noted or bytes(-(-found.rows // 8))) != (right or bytes(-(-found.rows // 8))):
                yield found, right

    def places(self, ids: Sequence[int]) -> dict[int, tuple[Segment, int]]:
        """Return the segment and the row of each of some images."""
        found = {}
        for start in range(0, len(ids), IN_LIMIT):
            chosen = IMAGES.c.id.in_(ids[start : start + IN_LIMIT])
            rows = select(IMAGES.c.id, IMAGES.c.row).add_columns(*_SEGMENT)
            rows = rows.join(SEGMENTS, IMAGES.c.segment_id == SEGMENTS.c.id)
            for number, row, *facts in self._connection.execute(rows.where(chosen)):
                found[number] = Segment(*facts), row
        return found

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
            .add_columns(*_SEGMENT)
            .join(SEGMENTS, image.segment_id == segment.id)
            .join(ENCODERS, segment.encoder_id == ENCODERS.c.id)
            .where(image.sha256 == sha256, ENCODERS.c.active)
            .order_by(image.id)
        )
        return tuple(
            StoredImage(number, os.fsdecode(path), width, height, Segment(*facts), row)
            for number, path, width, height, row, *facts in rows
        )

    def contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the hash of the content of each of the images with these ids."""
        rows = self._select_in(IMAGES.c.id, ids, IMAGES.c.sha256)
        return dict(map(tuple, rows))

    def id_at(self, path: str) -> int | None:
        """Return the id of the image that is stored under a path, None if there is none."""
        rows = self._connection.execute(
            select(IMAGES.c.id).where(IMAGES.c.path == os.fsencode(path))
        )
        return rows.scalar_one_or_none()

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

    def listed(self, places: Iterable[str]) -> Iterator[ImageInfo]:
        """Yield the images at and below at least one of some paths (none: all), by id."""
        image, folders = IMAGES.c, apart(places)
        columns = select(image.id, image.path, image.width, image.height, image.size)
        chosen = [
            columns.where(or_(*(is_under(image.path, p) for p in folders[at : at + _OR_LIMIT])))
            for at in range(0, len(folders), _OR_LIMIT)
        ]
        rows = [self._connection.execute(c.order_by(image.id)) for c in chosen or [columns]]
        for number, path, *facts in merge(*rows):
            yield ImageInfo(number, os.fsdecode(path), *facts)

    def count_under(self, places: Iterable[str]) -> int:
        """Return the number of images at and below at least one of some paths."""
        folders, total = apart(places), 0
        for start in range(0, len(folders), _OR_LIMIT):
            inside = (
                is_under(IMAGES.c.path, place) for place in folders[start : start + _OR_LIMIT]
            )
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
        for segment, _ in self.wrong_removed():
            found = f"another note in segment {segment.name}"
            damages.append(Damage(str(path), "a note of which rows no image uses", found))
        return damages

    def _select_in(
        self, key: Column[Any], values: Sequence[object], *columns: Column[Any]
    ) -> Iterator[Sequence[Any]]:
        for start in range(0, len(values), IN_LIMIT):
            chosen = key.in_(values[start : start + IN_LIMIT])
            yield from self._connection.execute(select(key, *columns).where(chosen))


def _unstaged(encoder: EncoderRecord) -> Iterator[ColumnElement[bool]]:
    """Yield the condition on images that they have no embedding by an encoder."""
    if encoder.active:
        yield false()
    place = STAGED.c
    theirs = select(place.image_id).join(SEGMENTS, place.segment_id == SEGMENTS.c.id)
    yield IMAGES.c.id.not_in(theirs.where(SEGMENTS.c.encoder_id == encoder.id))


def _excluded(
    rows: int, removed: bytes | None, under: list[int] | None, not_under: list[int]
) -> NDArray[np.uint8]:
    """Return the bits of the rows that do not count; empty if all do.

    These are the ``removed`` ones, those that are not ``under``, unless that is None, and those in
    ``not_under``.
    """
    if removed is None and under is None and not not_under:
        return np.empty(0, np.uint8)
    flags = unpacked(np.frombuffer(removed or b"", np.uint8), rows)
    if under is not None:
        outside = np.ones(rows, bool)
        outside[under] = False
        flags |= outside
    flags[not_under] = True
    return packed(flags)
