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
    Select,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)

from imgsim.catalog.checksums import IMAGE_FACTS, last_id, record_of, seal_of
from imgsim.catalog.functions import IsOf
from imgsim.catalog.judgements import radius_of
from imgsim.catalog.paths import apart, encoded, is_under
from imgsim.catalog.schema import (
    ENCODERS,
    FIT_REFUSED,
    FIT_ROOT,
    IMAGES,
    IN_SEGMENT,
    REFUSED,
    ROOTS,
    SEALS,
    SEGMENTS,
    STAGED,
)
from imgsim.errors import CollectionDamaged, EncoderMissing
from imgsim.findings import LearntRadius
from imgsim.options import SearchFilter, listed
from imgsim.records import (
    EncoderRecord,
    ImageRecord,
    Segment,
    SegmentRows,
    StoredImage,
    excluded,
)
from imgsim.results import ImageInfo

IN_LIMIT = 10_000
"""How many values a statement names; SQLite takes at most 32,766 parameters."""

SEGMENT_FACTS = SEGMENTS.c.name, SEGMENTS.c.rows, SEGMENTS.c.dim, SEGMENTS.c.sha256
_OR_LIMIT = 200  # SQLite takes expressions of a depth of 1,000


class Snapshot:
    """One instant of the catalog, whatever a writer commits meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._is_verified = False

    def verify(self) -> None:
        """Raise :class:`CollectionDamaged` if encoders or segments are not what was stored.

        What returns facts of them does so first.
        """
        if not self._is_verified and not self.is_sealed():
            raise CollectionDamaged(self.path, "encoders and segments as stored", "others")
        self._is_verified = True

    def is_sealed(self) -> bool:
        """Say whether encoders, segments and the greatest id are those that were stored."""
        noted = self.connection.execute(select(SEALS.c.checksum)).scalars().all()
        return noted == [seal_of(self.said)]

    def said(self, table: str, columns: str) -> Iterable[Sequence[Any]]:
        """Return some columns of a table, by the first: SQLAlchemy hides what is unfit."""
        return self.connection.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY 1")

    @property
    def path(self) -> Path:
        """Return where the catalog is."""
        return Path(self.connection.get_execution_options()["path"])

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
        self.verify()
        encoder = ENCODERS.c
        columns = encoder.id, encoder.fingerprint, encoder.dim, encoder.name, encoder.active
        rows = self.connection.execute(select(*columns).order_by(encoder.id))
        return [EncoderRecord(*row) for row in rows]

    def count_unstaged(self, encoder: EncoderRecord) -> int:
        """Return how many images have no embedding by an encoder."""
        return self.connection.execute(
            select(func.count(IMAGES.c.id)).where(*_unstaged(encoder))
        ).scalar_one()

    def unstaged(self, encoder: EncoderRecord, after: int, most: int) -> dict[int, ImageRecord]:
        """Return up to ``most`` images without an embedding by an encoder, ids from ``after``."""
        ids = self.connection.execute(
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
        return self.connection.execute(previous.where(ENCODERS.c.previous)).scalar_one()

    def segments(self) -> list[Segment]:
        """Return the segments of the active encoder in the order of their images' ids."""
        return [each.segment for each in self.segment_rows()]

    def segment_rows(self, within: SearchFilter | None = None) -> list[SegmentRows]:
        """Return the segments of the active encoder, by their images' ids, with the rows in use.

        Rows count whose image's path ``within`` admits, which takes longer the more images there
        are in the folders that it names.
        """
        self.verify()
        segment = SEGMENTS.c
        first = (
            select(IMAGES.c.id)
            .where(IMAGES.c.segment_id == segment.id)
            .order_by(IMAGES.c.row)
            .limit(1)
            .scalar_subquery()
        )
        rows = self.connection.execute(
            select(segment.id, segment.removed)
            .add_columns(*SEGMENT_FACTS)
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
                excluded(
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
            pairs = pairs.join(SEGMENTS, IMAGES.c.segment_id == SEGMENTS.c.id).where(IN_SEGMENT)
            pairs = pairs.execution_options(stream_results=True)
            for part in self.connection.execute(pairs).partitions(IN_LIMIT):
                for segment, row in part:
                    found.setdefault(segment, []).append(row)
        return found

    def next_id(self) -> int:
        """Return the id that the next image gets; ids are never used again."""
        self.verify()
        return int(last_id(self.said)) + 1

    def spare_segments(self, encoder: EncoderRecord | None = None) -> list[Segment]:
        """Return the segments of encoders that are not active, or of one of these."""
        self.verify()
        chosen = () if encoder is None else (ENCODERS.c.id == encoder.id,)
        rows = self.connection.execute(
            select(*SEGMENT_FACTS)
            .join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
            .where(not_(ENCODERS.c.active), *chosen)
            .order_by(SEGMENTS.c.id)
        )
        return [Segment(*row) for row in rows]

    def segment_names(self) -> list[str]:
        """Return the names of all segments, whichever encoder made them."""
        self.verify()
        return list(self.connection.execute(select(SEGMENTS.c.name)).scalars())

    def segment_ids(self, segment: Segment) -> NDArray[np.int64]:
        """Return the image id of each row of a segment, -1 for a row that no image uses.

        The segment may be of any encoder; those that are not active have staged rows.
        """
        ids = np.full(segment.rows, -1, np.int64)
        owner = select(SEGMENTS.c.id, ENCODERS.c.active).where(SEGMENTS.c.name == segment.name)
        owned = owner.join(ENCODERS, SEGMENTS.c.encoder_id == ENCODERS.c.id)
        for ours, active in self.connection.execute(owned).all():
            place, number = (IMAGES.c, IMAGES.c.id) if active else (STAGED.c, STAGED.c.image_id)
            rows = select(place.row, number).where(place.segment_id == ours)
            are_whole = (IsOf(each, "integer") for each in (place.row, number))
            inside = *are_whole, place.row.between(0, segment.rows - 1)
            for part in self.connection.execute(rows.where(*inside)).partitions(IN_LIMIT):
                pairs = np.array([tuple(pair) for pair in part], np.int64)
                ids[pairs[:, 0]] = pairs[:, 1]
        return ids

    def places(self, ids: Sequence[int]) -> dict[int, tuple[int, Segment, int]]:
        """Return the id, the segment and the row of each of some images, by id.

        Raises :class:`CollectionDamaged` for one that is in none.
        """
        found = {}
        for start in range(0, len(ids), IN_LIMIT):
            chosen = IMAGES.c.id.in_(ids[start : start + IN_LIMIT])
            rows = select(IMAGES.c.id, IN_SEGMENT, IMAGES.c.row).add_columns(*SEGMENT_FACTS)
            rows = rows.outerjoin(SEGMENTS, IMAGES.c.segment_id == SEGMENTS.c.id)
            for number, inside, row, *facts in self.connection.execute(rows.where(chosen)):
                if not inside:
                    raise CollectionDamaged(self.path, f"image {number} in a row", "none")
                found[number] = number, Segment(*facts), row
        return found

    def stamps(self, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (size, mtime_ns) of those of ``paths`` that are stored images."""
        rows = self._select_in(IMAGES.c.path, encoded(paths), IMAGES.c.size, IMAGES.c.mtime_ns)
        return {os.fsdecode(path): (size, mtime) for path, size, mtime in rows}

    def refusals(self, paths: Sequence[str]) -> dict[str, tuple[int, int, str]]:
        """Return (size, mtime_ns, reason) of those of ``paths`` that were refused."""
        columns = REFUSED.c.size, REFUSED.c.mtime_ns, REFUSED.c.reason
        rows = self._select_in(REFUSED.c.path, encoded(paths), *columns, FIT_REFUSED)
        return {os.fsdecode(path): tuple(facts) for path, *facts, fits in rows if fits}

    def with_content(self, sha256: bytes) -> tuple[StoredImage, ...]:
        """Return the images of the active encoder with this content, in the order of ids."""
        image, segment = IMAGES.c, SEGMENTS.c
        with_content = image.sha256 == sha256, ENCODERS.c.active, IN_SEGMENT
        rows = self.connection.execute(
            select(image.id, image.row)
            .add_columns(*SEGMENT_FACTS)
            .join(SEGMENTS, image.segment_id == segment.id)
            .join(ENCODERS, segment.encoder_id == ENCODERS.c.id)
            .where(*with_content)
            .order_by(image.id)
        ).all()
        found = self.records([number for number, *_ in rows])
        return tuple(
            StoredImage(number, image.path, image.width, image.height, image.damaged, *place)
            for number, row, *facts in rows
            for image, place in ((found[number], (Segment(*facts), row)),)
        )

    def id_at(self, path: str) -> int | None:
        """Return the id of the image that is stored under a path, None if there is none."""
        chosen = IMAGE_FACTS.where(IMAGES.c.path == os.fsencode(path))
        return next((number for number, _ in self._images(chosen)), None)

    def paths(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the paths of the images with these ids."""
        return {number: image.path for number, image in self.records(list(ids)).items()}

    def contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the hash of the content of each of the images with these ids."""
        return {number: image.sha256 for number, image in self.records(ids).items()}

    def copied(self) -> dict[int, bytes]:
        """Return the hash of the content of each image whose content another one has too."""
        several = select(IMAGES.c.sha256).group_by(IMAGES.c.sha256).having(func.count() > 1)
        chosen = IMAGE_FACTS.where(IMAGES.c.sha256.in_(several))
        return {number: image.sha256 for number, image in self._images(chosen)}

    def records(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Return the facts of the images with these ids."""
        return dict(
            found
            for start in range(0, len(ids), IN_LIMIT)
            for found in self._images(
                IMAGE_FACTS.where(IMAGES.c.id.in_(ids[start : start + IN_LIMIT]))
            )
        )

    def images_under(self, place: str) -> Iterator[tuple[str, int]]:
        """Yield path and id of the images at and below the path ``place``, by path."""
        chosen = IMAGE_FACTS.where(is_under(IMAGES.c.path, place)).order_by(IMAGES.c.path)
        for number, image in self._images(chosen):
            yield image.path, number

    def listed(self, places: Iterable[str]) -> Iterator[ImageInfo]:
        """Yield the images at and below at least one of some paths (none: all), by id."""
        image, folders = IMAGES.c, apart(places)
        chosen = [
            IMAGE_FACTS.where(or_(*(is_under(image.path, p) for p in folders[at : at + _OR_LIMIT])))
            for at in range(0, len(folders), _OR_LIMIT)
        ]
        found = (self._images(each.order_by(image.id)) for each in chosen or [IMAGE_FACTS])
        for number, each in merge(*found, key=lambda pair: pair[0]):
            yield ImageInfo(number, each.path, each.width, each.height, each.size, each.damaged)

    def _images(self, chosen: Select[Any]) -> Iterator[tuple[int, ImageRecord]]:
        """Yield id and facts of images; raise :class:`CollectionDamaged` for altered ones."""
        with self.connection.execute(chosen) as rows:
            for number, path, *facts, checksum in rows:
                image = record_of(number, path, facts, checksum)
                if image is None:
                    raise CollectionDamaged(self.path, f"image {number} as it was stored", "others")
                yield number, image

    def count_under(self, places: Iterable[str]) -> int:
        """Return the number of images at and below at least one of some paths."""
        folders, total = apart(places), 0
        for start in range(0, len(folders), _OR_LIMIT):
            inside = (
                is_under(IMAGES.c.path, place) for place in folders[start : start + _OR_LIMIT]
            )
            count = select(func.count(IMAGES.c.id)).where(or_(*inside))
            total += self.connection.execute(count).scalar_one()
        return total

    def conflicts(self, old: str, new: str) -> list[str]:
        """Return the paths of images that others would get if ``old`` were moved to ``new``."""
        path, other = IMAGES.c.path, IMAGES.alias().c.path
        tail = func.substr(path, len(os.fsencode(old)) + 1)
        target = cast(literal(os.fsencode(new)).concat(tail), LargeBinary)
        both = select(other).join(IMAGES, other == target).where(is_under(path, old))
        rows = self.connection.execute(both.where(not_(is_under(other, old))).order_by(other))
        return [os.fsdecode(found) for found in rows.scalars()]

    def refused_under(self, place: str) -> dict[str, str]:
        """Return path and reason of the refused files at and below the path ``place``."""
        columns = select(REFUSED.c.path, REFUSED.c.reason).order_by(REFUSED.c.path)
        rows = self.connection.execute(columns.where(is_under(REFUSED.c.path, place), FIT_REFUSED))
        return {os.fsdecode(path): reason for path, reason in rows}

    def roots(self) -> list[str]:
        """Return the folders that were ingested."""
        chosen = select(ROOTS.c.path).where(FIT_ROOT).order_by(ROOTS.c.path)
        return [os.fsdecode(path) for path in self.connection.execute(chosen).scalars()]

    def radius(self) -> LearntRadius | None:
        """Return the distance of duplicates by the active encoder; None until it is learnt."""
        return radius_of(self.connection, self.encoder().fingerprint)

    def count_images(self) -> int:
        """Return the number of stored images."""
        return self.connection.execute(select(func.count(IMAGES.c.id))).scalar_one()

    def count_refused(self) -> int:
        """Return the number of refused files."""
        return self.connection.execute(select(func.count(REFUSED.c.path))).scalar_one()

    def longest_path(self) -> int:
        """Return the length in bytes of the longest path of an image, 0 if there is none."""
        longest = select(func.max(func.length(IMAGES.c.path)))
        return self.connection.execute(longest).scalar_one() or 0

    def _select_in(
        self, key: Column[Any], values: Sequence[object], *columns: ColumnElement[Any]
    ) -> Iterator[Sequence[Any]]:
        for start in range(0, len(values), IN_LIMIT):
            chosen = key.in_(values[start : start + IN_LIMIT])
            yield from self.connection.execute(select(key, *columns).where(chosen))


def _unstaged(encoder: EncoderRecord) -> Iterator[ColumnElement[bool]]:
    """Yield the condition on images that they have no embedding by an encoder."""
    if encoder.active:
        yield false()
    place = STAGED.c
    theirs = select(place.image_id).join(SEGMENTS, place.segment_id == SEGMENTS.c.id)
    yield IMAGES.c.id.not_in(theirs.where(SEGMENTS.c.encoder_id == encoder.id))
