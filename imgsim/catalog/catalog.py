"""The catalog: what exists, and every query on its tables."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import bindparam, delete, func, insert, select, update

from imgsim.catalog import changes, judgements
from imgsim.catalog.database import Database
from imgsim.catalog.migrate import upgrade
from imgsim.catalog.paths import encoded
from imgsim.catalog.postgres import PostgresDatabase, url_of
from imgsim.catalog.restore import restore
from imgsim.catalog.schema import ENCODERS, IMAGES, RADII, REFUSED, ROOTS, SEGMENTS, STAGED
from imgsim.catalog.snapshot import Snapshot
from imgsim.catalog.sqlite import SqliteFile
from imgsim.errors import CollectionError, EncoderError, EncoderMismatch
from imgsim.findings import LearntRadius
from imgsim.records import EncoderRecord, ImageFile, ImageRecord, Inventory, Segment
from imgsim.results import Refusal

_SHORT = 12  # digits of a fingerprint that name an encoder


class Catalog:
    """The catalog of a collection: an SQLite file, or where a file beside it says."""

    def __init__(self, path: Path) -> None:
        """Open the catalog at ``path``, created if missing, and bring its schema up to date.

        ``was_upgraded`` says whether that changed an older one.
        """
        self._is_closed = False
        url = url_of(path)
        self._database: Database = SqliteFile(path) if url is None else PostgresDatabase(url, path)
        self.was_upgraded = upgrade(self._database, path.parent)
        self.is_in_place = self._database.is_in_place
        self.version = self._database.version
        self.has_content = self._database.has_content
        self.writing = self._database.writing

    def refuse_another(self, folder: Path) -> None:
        """Raise :class:`CollectionError` if the catalog of a new collection has something in it."""
        with self.snapshot() as snapshot:
            if snapshot.encoders() or snapshot.count_images():
                raise CollectionError(folder, "the catalog at that address is another collection's")

    def close(self) -> None:
        """Close the database; whatever is asked of it raises ValueError from then on."""
        self._is_closed = True
        self._database.close()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read one instant of the catalog."""
        if self._is_closed:
            raise ValueError("the collection is closed")
        with self._database.engine.begin() as connection:
            yield Snapshot(connection)

    def add_encoder(
        self, fingerprint: str, dim: int, name: str | None = None, *, instead: bool = False
    ) -> EncoderRecord:
        """Commit an encoder, which becomes the active one if there are no images yet.

        Its name is what the fingerprint begins with unless it gets one; one that is there already
        gets the new one. Raises :class:`EncoderError` if another encoder has the name; with
        ``instead``, that loses it.
        """
        with self._writing() as snapshot:
            connection = snapshot.connection
            if instead and name is not None:
                theirs = ENCODERS.c.name == name, ENCODERS.c.fingerprint != fingerprint
                short = func.substr(ENCODERS.c.fingerprint, 1, _SHORT)
                connection.execute(update(ENCODERS).where(*theirs).values(name=short))
            known = {record.fingerprint: record for record in snapshot.encoders()}
            chosen = name or fingerprint[:_SHORT]
            refuse_taken(known.values(), chosen, fingerprint)
            if fingerprint not in known:
                facts = {"fingerprint": fingerprint, "dim": dim, "created_at": changes.now()}
                connection.execute(insert(ENCODERS).values(active=False, name=chosen, **facts))
            elif name is not None:
                ours = ENCODERS.c.fingerprint == fingerprint
                connection.execute(update(ENCODERS).where(ours).values(name=name))
            if not snapshot.count_images():
                changes.activate(connection, snapshot.encoder_named(fingerprint).id)
            return snapshot.encoder_named(fingerprint)

    def use_encoder(self, encoder: EncoderRecord) -> None:
        """Commit that the embeddings by another encoder are the collection's.

        The present ones stay as those of the previous encoder. Raises :class:`EncoderMismatch` if
        not every image has an embedding by it.
        """
        with self._writing() as snapshot:
            missing = snapshot.count_unstaged(encoder)
            if missing:
                raise EncoderMismatch(
                    f"{missing:,} images have no embedding by {encoder.name}; "
                    f"run `imgsim reencode --encoder {shlex.quote(encoder.name)}`"
                )
            if not encoder.active:
                changes.swap_staged(snapshot.connection, encoder.id)
                changes.activate(snapshot.connection, encoder.id)

    def commit_staged(self, encoder: EncoderRecord, segment: Segment, ids: Sequence[int]) -> None:
        """Commit embeddings by an encoder that is not active: row i is the image ``ids[i]``.

        With a segment that is committed already, nothing.
        """
        with self._writing() as snapshot:
            connection = snapshot.connection
            if segment.name in snapshot.segment_names():
                return
            segment_id = changes.insert_segment(connection, segment, encoder.id)
            present = snapshot.records(ids)
            rows = [
                {"image_id": number, "segment_id": segment_id, "row": row}
                for row, number in enumerate(ids)
                if number in present
            ]
            if rows:
                connection.execute(insert(STAGED), rows)
            gone = [row for row, number in enumerate(ids) if number not in present]
            changes.note_removed(connection, [(segment_id, row) for row in gone])

    def keep_encoder(self, encoder: EncoderRecord) -> None:
        """Commit that the embeddings by an encoder, if there are any, are wanted again."""
        with self._writing() as snapshot:
            ours = ENCODERS.c.id == encoder.id
            snapshot.connection.execute(update(ENCODERS).where(ours).values(previous=False))

    def forget_previous(self) -> None:
        """Commit that the embeddings by previous encoders are no more."""
        with self._writing() as snapshot:
            previous = select(ENCODERS.c.id).where(ENCODERS.c.previous)
            changes.delete_segments(snapshot.connection, SEGMENTS.c.encoder_id.in_(previous))

    def forget_spare(self, segments: Sequence[Segment]) -> None:
        """Commit that segments of encoders that are not active are no more."""
        names = [each.name for each in segments]
        with self._writing() as snapshot:
            changes.delete_segments(snapshot.connection, SEGMENTS.c.name.in_(names))

    def forget_encoder(self, encoder: EncoderRecord) -> None:
        """Commit that an encoder that is not active is no more, nor its embeddings."""
        with self._writing() as snapshot:
            changes.delete_segments(snapshot.connection, SEGMENTS.c.encoder_id == encoder.id)
            ours = RADII.c.fingerprint == encoder.fingerprint
            snapshot.connection.execute(delete(RADII).where(ours))
            snapshot.connection.execute(delete(ENCODERS).where(ENCODERS.c.id == encoder.id))

    @contextmanager
    def _writing(self) -> Iterator[Snapshot]:
        """Begin a transaction that changes the catalog, if encoders and segments are sound."""
        with self.snapshot() as snapshot:
            snapshot.verify()
            yield snapshot
            changes.seal(snapshot.connection)
            self._database.confirm()

    def commit_batch(
        self,
        segment: Segment | None,
        images: Mapping[int, ImageRecord],
        stamps: Sequence[tuple[int, ImageRecord]] = (),
        refused: Sequence[tuple[ImageFile, Refusal]] = (),
    ) -> None:
        """Commit what an ingest did; with a segment that is committed already, nothing.

        ``images`` are the rows of ``segment``, in order, by id; one whose path is stored takes its
        place under a new id. ``stamps`` are ids of stored images whose content is what it was, with
        the path, size and time that each has now; an image that is stored under the path, and
        another, gives way. ``refused`` files are no images, whatever was stored under their paths.
        """
        with self._writing() as snapshot:
            connection = snapshot.connection
            if segment is not None and segment.name in snapshot.segment_names():
                return
            changes.update_stamps(connection, stamps)
            if segment is not None:
                changes.insert_images(connection, segment, images)
            changes.insert_refusals(connection, refused)

    def commit_merge(self, old: Sequence[str], new: Segment | None, ids: Sequence[int]) -> None:
        """Commit that ``new`` takes the place of the segments named ``old``.

        Its rows are the images ``ids``, which are all of theirs; without ``old`` ones, wherever
        these were.
        """
        with self._writing() as snapshot:
            connection = snapshot.connection
            if not old:
                changes.leave_rows(connection, ids)
            if new is not None:
                segment_id = changes.insert_segment(connection, new)
                place = {"segment_id": segment_id, "row": bindparam("new_row")}
                moved = update(IMAGES).where(IMAGES.c.id == bindparam("image_id")).values(**place)
                rows = [{"image_id": number, "new_row": row} for row, number in enumerate(ids)]
                connection.execute(moved, rows)
            connection.execute(delete(SEGMENTS).where(SEGMENTS.c.name.in_(old)))

    def commit_roots(self, folders: Sequence[str]) -> None:
        """Commit folders that are ingested."""
        with self._writing() as snapshot:
            known = set(snapshot.roots())
            new = [{"path": path} for path in encoded(sorted(set(folders) - known))]
            if new:
                snapshot.connection.execute(insert(ROOTS), new)

    def forget(self, images: Sequence[int], refused: Sequence[str], roots: Sequence[str]) -> None:
        """Commit that images (by id), refusals and roots (by path) are no more."""
        with self._writing() as snapshot:
            changes.forget_images(snapshot.connection, images)
            changes.delete_in(snapshot.connection, REFUSED.c.path, encoded(refused))
            changes.delete_in(snapshot.connection, ROOTS.c.path, encoded(roots))

    def restore(self, found: Inventory) -> None:
        """Commit that encoders and segments are those that are there, if they are damaged."""
        with self.snapshot() as snapshot:
            if not snapshot.is_sealed():
                restore(snapshot.connection, snapshot.said, found)

    def settle(
        self,
        lost: Sequence[int] = (),
        places: Mapping[int, tuple[str, int]] | None = None,
        staged: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Commit where images are, that some are no more, what follows from that, and the seal.

        ``places`` are names of segments and rows by id, ``staged`` ids and segments of which an
        embedding by another encoder is not the image's. The seal is not compared.
        """
        with self.snapshot() as snapshot:
            connection = snapshot.connection
            changes.delete_unfit(connection)
            changes.delete_staged(connection, staged)
            changes.delete_in(connection, IMAGES.c.id, lost)
            changes.put_images(connection, places or {})
            changes.renew_removed(connection)
            changes.seal(connection)

    def commit_radius(self, encoder: EncoderRecord, learnt: LearntRadius) -> None:
        """Commit at which distance images are duplicates by an encoder."""
        with self._writing() as snapshot:
            judgements.put_radius(snapshot.connection, encoder.fingerprint, learnt)

    def commit_judged(self, pairs: Iterable[judgements.Pair]) -> int:
        """Commit pairs of contents that are no duplicates; return how many of them are new."""
        with self._writing() as snapshot:
            return judgements.put_judged(snapshot.connection, pairs)

    def forget_judged(self, pairs: Iterable[judgements.Pair]) -> int:
        """Commit that nothing was said of pairs of contents; return how many there were."""
        with self._writing() as snapshot:
            return judgements.delete_judged(snapshot.connection, pairs)

    def relocate(self, old: str, new: str) -> None:
        """Commit that everything at and below the path ``old``, and only that, is at ``new``."""
        with self._writing() as snapshot:
            changes.move_paths(snapshot.connection, old, new)


def refuse_taken(encoders: Iterable[EncoderRecord], name: str, fingerprint: str = "") -> None:
    """Raise :class:`EncoderError` if another encoder than that of a fingerprint has the name."""
    if any(each.name == name and each.fingerprint != fingerprint for each in encoders):
        raise EncoderError(f"another encoder has the name {name}; choose one with --name")
