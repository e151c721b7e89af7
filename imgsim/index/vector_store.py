"""The collection's embeddings: segment files that whoever owns the catalog names."""

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import CollectionDamaged, CollectionError
from imgsim.files import sha256_file, writing
from imgsim.index.bounds import TILE, Bounds, are_of_another, are_there, write_bounds
from imgsim.index.checksum import row_sums
from imgsim.index.gallery import Gallery
from imgsim.index.mapped_segment import MappedSegment, TableInMemory, table_of
from imgsim.index.projection import (
    Projection,
    fit_projection,
    read_projection,
    sample_size,
    write_projection_file,
)
from imgsim.index.search import Source
from imgsim.index.searcher import BackendChoice
from imgsim.index.segment_file import (
    MappedEmbeddings,
    MappedTable,
    damage_of,
    read_shape,
    write_blocks,
    write_segment,
    write_table,
)
from imgsim.index.segment_folder import Origin, SegmentFolder
from imgsim.records import SEGMENT_NAME, Segment, SegmentRows
from imgsim.results import Damage

_LOG = logging.getLogger(__name__)

UNCERTAIN = -2
"""Whose row it is if its checksum is another."""

_GROWTH = 8  # how many times as many embeddings deserve a new projection

IdsOf = Callable[[Segment], NDArray[np.int64]]
"""Returns the image id of each row of a segment (rows,), -1 for none."""


class VectorStore:
    """Segment files in ``directory``, or at the ``origin`` of those.

    A projection is fitted once there are ``fewest_fitted`` embeddings; segments of fewer than
    ``fewest_bounded`` go without bounds.
    """

    def __init__(
        self,
        directory: Path,
        origin: Origin | None = None,
        *,
        fewest_fitted: int = 2_048,
        fewest_bounded: int = 256,
    ) -> None:
        self._files = SegmentFolder(directory, origin)
        self._fewest_fitted = fewest_fitted
        self._fewest_bounded = fewest_bounded
        self._choose_backend = BackendChoice()

    def add(self, ids: NDArray[np.int64], embeddings: NDArray[np.float32]) -> Segment:
        """Durably write (n, d) float32 embeddings, and the ids (n,) of their images, as a segment.

        They exist once the catalog commits the segment; until then the files are garbage.
        """
        name = secrets.token_hex(8)
        path, table = self._files.embeddings(name), self._files.table(name)
        digest = write_segment(path, embeddings)
        write_table(table, table_of(ids, embeddings))
        self._files.publish(path, table)
        return Segment(name, len(embeddings), embeddings.shape[1], digest)

    def merge(self, parts: Sequence[tuple[Segment, NDArray[np.int64]]]) -> Segment | None:
        """Durably write the rows that are images as one new segment; None if there is none.

        Each part is a segment and the image id of each of its rows, -1 for none. Raises
        :class:`CollectionDamaged` where a file's bytes are not those that were stored.
        """
        ids = np.concatenate([ids[ids >= 0] for _, ids in parts])
        if not len(ids):
            return None
        for segment, _ in parts:
            self._refuse_damage(segment)
        name, dim = secrets.token_hex(8), parts[0][0].dim
        path, table = self._files.embeddings(name), self._files.table(name)
        tables: list[NDArray[np.void]] = []
        digest = write_blocks(path, len(ids), dim, self._merged(parts, tables))
        write_table(table, np.concatenate(tables))
        self._files.publish(path, table)
        return Segment(name, len(ids), dim, digest)

    def _merged(
        self,
        parts: Sequence[tuple[Segment, NDArray[np.int64]]],
        tables: list[NDArray[np.void]],
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings of the rows that are images, and add their ids to ``tables``."""
        for segment, ids in parts:
            for start, rows in self._mapped(segment).blocks():
                here = np.flatnonzero(ids[start : start + len(rows)] >= 0)
                tables.append(table_of(ids[start + here], rows[here]))
                yield rows[here]

    def embeddings(
        self, places: Sequence[tuple[int, Segment, int]], ids_of: IdsOf
    ) -> NDArray[np.float32]:
        """Return the embeddings (n, dim) of images: of their ids, and their rows of segments.

        Raises :class:`CollectionDamaged` if they are not those that were stored.
        """
        ids = np.array([number for number, _, _ in places])
        numbers: dict[Segment, list[int]] = {}
        for number, (_, segment, _) in enumerate(places):
            numbers.setdefault(segment, []).append(number)
        found = np.empty((len(places), places[0][1].dim), np.float32)
        for segment, some in numbers.items():
            rows = np.array([places[number][2] for number in some])
            theirs, found[some] = self._segment(segment, ids_of).take(rows)
            wrong = np.flatnonzero(theirs != ids[some])
            if len(wrong):
                path, first = self._files.table(segment.name), wrong[0]
                expected = f"image {ids[some][first]} in row {rows[first]}"
                raise CollectionDamaged(path, expected, f"image {theirs[first]}")
        return found

    def gallery(
        self, rows: Sequence[SegmentRows], dim: int, radius: float, ids_of: IdsOf
    ) -> Gallery:
        """Map the embeddings of some rows, of which those within ``radius`` of a query are found.

        ``ids_of`` is asked for the ids of a segment whose own file of them cannot be used.
        """
        projection = self._projection(dim)
        counted = [each for each in rows if each.count]
        with ThreadPoolExecutor() as pool:  # the bounds are read to compare their checksums
            bounds = pool.map(lambda each: self._fetched(each.segment, projection), counted)
            sources = [
                Source(self._segment(each.segment, ids_of), each.excluded, found)
                for each, found in zip(counted, bounds, strict=True)
            ]
        without = [
            each.segment
            for each, source in zip(counted, sources, strict=True)
            if source.bounds is None
        ]
        if without:
            self._note_without_bounds(without, len(sources), projection)
        return Gallery(sources, projection, dim, radius, self._choose_backend)

    def _fetched(self, segment: Segment, projection: Projection | None) -> Bounds | None:
        """Return the bounds of a segment, whose other files are here then, too."""
        self._files.here(self._files.embeddings(segment.name), segment.sha256)
        self._files.here(self._files.table(segment.name))
        return self._bounds(segment, projection)

    def renew_projection(self) -> None:
        """Copy the projection anew: of all files at the origin, it is the one that changes."""
        self._files.renewed(self._files.projection)

    def _note_without_bounds(
        self, segments: Sequence[Segment], total: int, projection: Projection | None
    ) -> None:
        """Say why some of the segments are scanned whole; damage is worth a warning."""
        why = "theirs are missing or stale, or they are small"
        if projection is None or not projection.near:
            why = "there is no projection that pays"
        else:
            paths = [self._files.bounds(segment.name) for segment in segments]
            for path in paths:
                if path.exists() and not are_of_another(path, projection):
                    _LOG.warning("%s: damaged; queries take longer until it is repaired", path)
        _LOG.debug("%d of %d segments are scanned whole: %s", len(segments), total, why)

    def build_tables(self, segments: Iterable[Segment], ids_of: IdsOf) -> None:
        """Write the tables of rows that are missing or cut short, unless embeddings are damaged.

        What an origin lacks, because a writer ended early, it gets.
        """
        segments = list(segments)
        self._files.publish_missing(segment.name for segment in segments)
        for segment in segments:
            if self._table(segment) is None and self.segment_damage(segment) is None:
                self._write_table(segment, ids_of(segment))

    def _write_table(self, segment: Segment, ids: NDArray[np.int64]) -> None:
        path = self._files.table(segment.name)
        write_table(path, self._right_table(segment, ids))
        self._files.publish(path)

    def _right_table(self, segment: Segment, ids: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the table of a segment's rows, whose file of embeddings is sound."""
        blocks = self._mapped(segment).blocks()
        parts = [table_of(ids[start : start + len(rows)], rows) for start, rows in blocks]
        return np.concatenate(parts)

    def _segment(self, segment: Segment, ids_of: IdsOf) -> MappedSegment:
        """Map the rows of a segment; without a table of them, all are read to make one."""
        mapped, table = self._mapped(segment), self._table(segment)
        if table is not None:
            return MappedSegment(mapped, table, segment.sha256)
        _LOG.debug("%s: no table of its rows; asking the catalog", segment.name)
        self._refuse_damage(segment)
        ours = TableInMemory(self._right_table(segment, ids_of(segment)))
        return MappedSegment(mapped, ours, segment.sha256)

    def _table(self, segment: Segment) -> MappedTable | None:
        """Return the table of a segment's rows; None where the file is missing or cut short."""
        try:
            return MappedTable(self._files.here(self._files.table(segment.name)), segment.rows)
        except (OSError, ValueError):
            return None

    def build_bounds(self, segments: Sequence[Segment], ids_of: IdsOf) -> None:
        """Write the bounds that are missing; fit a projection first, once that is worth it.

        A collection that has grown many times gets another projection, and all its bounds anew.

        Raises :class:`StoreError` if that fails; a search does without.
        """
        segments = [segment for segment in segments if segment.rows >= self._fewest_bounded]
        if not segments:
            return
        mapped = [self._segment(segment, ids_of) for segment in segments]
        with writing(self._files.path, "; all images are stored, but queries take longer"):
            projection = self._projection(segments[0].dim)
            if projection is None or sum(map(len, mapped)) >= _GROWTH * projection.rows:
                projection = self._new_projection(mapped, segments[0].dim)
            if projection is None or not projection.near:
                return
            for segment, rows in zip(segments, mapped, strict=True):
                path = self._files.here(self._files.bounds(segment.name))
                if not are_there(path, segment.rows, projection):
                    starts = range(0, segment.rows, TILE)
                    blocks = (rows.span(start, start + TILE)[1] for start in starts)
                    self._files.withdraw(path)
                    write_bounds(path, segment.rows, projection, blocks)
                    self._files.publish(path)

    def forget_projection(self) -> None:
        """Remove the projection, so that the next bounds are for one that is fitted anew."""
        self._files.drop(self._files.projection)

    def _new_projection(self, mapped: Sequence[MappedSegment], dim: int) -> Projection | None:
        """Fit and write a projection; None if there are too few embeddings yet."""
        rows = sum(map(len, mapped))
        if rows < self._fewest_fitted:
            return None
        _LOG.debug("fitting a projection to a sample of %d embeddings", rows)
        projection = fit_projection(_sample(mapped, sample_size(dim)), rows)
        self._files.withdraw(self._files.projection)
        write_projection_file(self._files.projection, projection)
        self._files.publish(self._files.projection)
        return projection

    def _projection(self, dim: int) -> Projection | None:
        """Return the projection of the bounds; None if there is no sound one of this dimension."""
        try:
            return read_projection(self._files.here(self._files.projection), dim)
        except (OSError, ValueError):
            return None

    def _bounds(self, segment: Segment, projection: Projection | None) -> Bounds | None:
        """Return the bounds of a segment; None where they are missing, stale or cut short."""
        if projection is None:
            return None
        path = self._files.here(self._files.bounds(segment.name))
        with suppress(OSError, ValueError):
            return Bounds(path, segment.rows, projection)
        if path.exists() and self._files.renewed(path):
            with suppress(OSError, ValueError):
                return Bounds(path, segment.rows, projection)
        return None

    def sweep(self, segments: Iterable[str]) -> None:
        """Remove the files that belong to none of these segments; only the one writer may."""
        self._files.sweep(segments)

    def found(self) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
        """Yield every complete segment file, and what :meth:`noted_ids` says of it."""
        for path in self._files.found():
            with suppress(OSError, CollectionError):  # what cannot be read is not there
                shape = read_shape(path)
                if shape is not None and min(shape) > 0 and SEGMENT_NAME.fullmatch(path.stem):
                    segment = Segment(path.stem, *shape, sha256_file(path))
                    yield segment, self.noted_ids(segment)

    def noted_ids(self, segment: Segment) -> NDArray[np.int64]:
        """Return the ids (rows,) in the table of a segment, -1 for nobody's.

        Where a row has not the checksum in the table, it is UNCERTAIN. Raises
        :class:`CollectionDamaged` for a file of another shape.
        """
        mapped, table = self._mapped(segment), self._table(segment)
        ids = np.full(segment.rows, UNCERTAIN, np.int64)
        if table is None:
            return ids
        for start, rows in mapped.blocks():
            noted = table.span(start, start + len(rows))[:, 0]
            right = row_sums(noted["id"], rows) == noted["sum"]
            ids[start : start + len(rows)] = np.where(right, noted["id"], UNCERTAIN)
        return ids

    def damages(
        self, segments: Sequence[Segment], spare: Sequence[Segment], ids_of: IdsOf
    ) -> Iterator[Damage]:
        """Yield what is wrong with each segment file, and with the ids and bounds that there are.

        ``spare`` segments, of encoders that are not active, have no bounds.
        """
        for segment in (*segments, *spare):
            if (damage := self.segment_damage(segment)) is not None:
                yield damage  # it does not say whether the table is right
            elif not self._has_right_table(segment, ids_of(segment)):
                path = self._files.table(segment.name)
                yield Damage(str(path), "the ids and checksums of the rows", "something else")
        for path in self._files.lacking(segment.name for segment in segments):
            yield Damage(str(path), "the same file in the bucket", "none")
        yield from self._bounds_damages(segments)

    def renew_tables(self, segments: Iterable[Segment], ids_of: IdsOf) -> None:
        """Write anew the tables that say something else than ``ids_of`` and sound embeddings."""
        for segment in segments:
            ids = ids_of(segment)
            if self.segment_damage(segment) is None and not self._has_right_table(segment, ids):
                self._write_table(segment, ids)

    def _has_right_table(self, segment: Segment, ids: NDArray[np.int64]) -> bool:
        """Say whether the table, if there is one, is that of all rows that are images."""
        if not self._files.here(self._files.table(segment.name)).exists():
            return True
        noted, images = self.noted_ids(segment), ids >= 0
        return bool((noted > UNCERTAIN).all() and np.array_equal(noted[images], ids[images]))

    def segment_damage(self, segment: Segment) -> Damage | None:
        """Return what is wrong with a file of embeddings: missing, wrong shape, altered bytes."""
        path = self._files.embeddings(segment.name)
        try:
            self._files.here(path, segment.sha256)
            damage = damage_of(path, segment)
            if damage and self._files.renewed(path, segment.sha256):
                return damage_of(path, segment)
        except CollectionDamaged as error:
            return Damage(str(error.path), error.expected, error.found)
        return damage

    def _refuse_damage(self, segment: Segment) -> None:
        """Raise :class:`CollectionDamaged` if a file of embeddings is not what was stored."""
        if (damage := self.segment_damage(segment)) is not None:
            raise CollectionDamaged(Path(damage.path), damage.expected, damage.found)

    def remove_damaged_bounds(self, segments: Sequence[Segment]) -> int:
        """Remove damaged bounds, which :meth:`build_bounds` makes anew; return how many."""
        damages = list(self._bounds_damages(segments))
        for damage in damages:
            self._files.drop(Path(damage.path))
        return len(damages)

    def _bounds_damages(self, segments: Sequence[Segment]) -> Iterator[Damage]:
        """Yield how the projection, or bounds under it, are not what was written."""
        if not segments:
            return
        dim, path = segments[0].dim, self._files.projection
        projection = self._projection(dim)
        if projection is None:
            if path.exists():
                expected = f"orthonormal directions of dimension {dim}"
                yield Damage(str(path), expected, "something else")
            return
        for segment in segments:
            path = self._files.here(self._files.bounds(segment.name))
            if not path.exists() or are_of_another(path, projection):
                continue
            if self._bounds(segment, projection) is None:
                expected = f"the bounds of {segment.rows} rows under the projection"
                yield Damage(str(path), expected, "something else")

    def _mapped(self, segment: Segment) -> MappedEmbeddings:
        path = self._files.here(self._files.embeddings(segment.name), segment.sha256)
        return MappedEmbeddings(path, segment.rows, segment.dim)


def _sample(mapped: Sequence[MappedSegment], most: int) -> NDArray[np.float32]:
    """Return up to ``most`` rows, evenly from all segments."""
    step = max(1, -(-sum(map(len, mapped)) // most))
    return np.concatenate([v.take(np.arange(0, len(v), step))[1] for v in mapped])
