"""A collection: the one place where the parts meet."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from imgsim import export
from imgsim.catalog import SCHEMA, Catalog, Snapshot
from imgsim.encoder import MODEL_NAME, Encoder, read_feed
from imgsim.errors import (
    CollectionDamaged,
    CollectionError,
    CollectionNotFound,
    EncoderError,
    EncoderMismatch,
    EncoderMissing,
    ImageError,
)
from imgsim.exact import Nearest
from imgsim.files import new_directory, publish_directory, writer_lock
from imgsim.images import find
from imgsim.ingest import Ingest, encode_files
from imgsim.store import Gallery, VectorStore
from imgsim.types import (
    CollectionInfo,
    Damage,
    EncoderRecord,
    ImageFile,
    ImageNeighbours,
    IngestReport,
    Match,
    Progress,
    QueryResult,
    SearchStats,
    TrainingProgress,
    TrainingReport,
    TrainingSettings,
    Within,
)

PathLike = str | os.PathLike[str]
Paths = PathLike | Iterable[PathLike]
"""A path, or several."""

_SEARCHED_AT_ONCE = 1_024
_CATALOG = "catalog.db"
_OWN_NAMES = {"lock", "segments", "encoders", _CATALOG, f"{_CATALOG}-wal", f"{_CATALOG}-shm"}


class Collection:
    """A directory of vectors, their encoder, and a catalog of the images.

    Use :meth:`open`, and close it or use it as a context manager. Paths that come back are absolute
    strings, decoded as by :func:`os.fsdecode`.
    """

    def __init__(self, path: Path, catalog: Catalog) -> None:
        self._path = path
        self._catalog = catalog
        self._store = VectorStore(path / "segments")

    @classmethod
    def open(cls, path: PathLike, *, create: bool = True) -> Self:
        """Open the collection in the directory ``path``, or create it there.

        Raises :class:`CollectionNotFound` if there is none and ``create`` is false, and other
        :class:`CollectionError` if the directory is something else, damaged, or of a newer imgsim.
        """
        directory = Path(os.path.abspath(path))
        try:
            size = (directory / _CATALOG).stat().st_size
            if not size and any((directory / "segments").glob("*.faiss")):
                raise CollectionDamaged(directory / _CATALOG, "an SQLite database", "an empty file")
        except (FileNotFoundError, NotADirectoryError) as error:
            if not create:
                raise CollectionNotFound(
                    directory, "there is no collection here; `imgsim train` makes one"
                ) from error
            _create(directory)
        except OSError as error:
            raise CollectionError(directory, f"cannot be opened: {error.strerror}") from error
        return cls(directory, Catalog(directory / _CATALOG))

    def close(self) -> None:
        """Close the catalog."""
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def train(
        self,
        images: Paths,
        settings: TrainingSettings | None = None,
        on_progress: Callable[[TrainingProgress], None] = lambda _: None,
    ) -> TrainingReport:
        """Train an encoder on image files and folders and make it the collection's encoder.

        Raises :class:`EncoderMismatch` if the collection already holds vectors, which a new encoder
        would orphan, and :class:`EncoderError` if the images or the settings do not allow training.
        """
        with writer_lock(self._path):
            with self._catalog.snapshot() as snapshot:
                stored = snapshot.count_images()
            if stored:
                raise EncoderMismatch(
                    f"{self._path}: holds {stored:,} vectors of another encoder; "
                    "train into a new collection, or delete this one first"
                )
            from imgsim import figures, training  # noqa: PLC0415 - TensorFlow takes seconds

            with new_directory(self._path / "encoders") as scratch:
                trained = training.train(
                    self._find(images), settings or TrainingSettings(), scratch, on_progress
                )
                report = trained.report
                figures.draw_history(scratch / "history.png", report.history)
                figures.draw_reconstructions(
                    scratch / "reconstructions.png", trained.originals, trained.reconstructions
                )
                directory = self._encoder_directory(report.fingerprint)
                if not directory.exists():  # the same images and seed can give the same bytes
                    publish_directory(scratch, directory)
            self._catalog.activate_encoder(report.fingerprint, report.dim)
        return replace(report, directory=str(directory))

    def ingest(
        self,
        paths: Paths,
        *,
        dry_run: bool = False,
        on_progress: Progress | None = None,
    ) -> IngestReport:
        """Store the images at and under ``paths`` that are new or changed.

        A file is unchanged if its path, size and modification time are. A batch that is committed
        stays, also when the run is interrupted or killed. ``dry_run`` only compares.
        """
        roots = _listed(paths)
        if dry_run:
            return self._new_ingest().preview(self._find(roots))
        with writer_lock(self._path):
            total = sum(1 for _ in self._find(roots)) if on_progress else 0
            run = self._new_ingest()
            self._sweep()
            return run.run(
                self._find(roots), lambda done: on_progress(done, total) if on_progress else None
            )

    def query(
        self,
        images: Paths,
        k: int | None = 10,
        on_error: Callable[[ImageError], None] | None = None,
        *,
        within: Within | None = None,
        on_stats: Callable[[SearchStats], None] = lambda _: None,
    ) -> list[QueryResult]:
        """Return for each image file its ``k`` nearest stored images, nearest first.

        ``within`` restricts which images count; a ``k`` of None asks for all that do. An image
        that cannot be decoded raises its :class:`ImageError`; with ``on_error``, the error is
        handed over instead, and the image has no result. ``on_stats`` receives what the search
        looked at.
        """
        paths = _listed(images)
        with self._gallery(within) as (snapshot, gallery):
            found = encode_files(paths, self._encoder(snapshot))
            queries, latents = [], []
            for path, result in zip(paths, found, strict=True):
                if not isinstance(result, ImageError):
                    queries.append(path)
                    latents.append(result[1])
                elif on_error is None:
                    raise result
                else:
                    on_error(result)
            if not queries:
                return []
            nearest = gallery.search(np.stack(latents), k)
            on_stats(gallery.stats)
            return [
                QueryResult(query, matches)
                for query, matches in zip(queries, _matches(snapshot, nearest), strict=True)
            ]

    def neighbours(
        self, k: int | None = 10, within: Within | None = None
    ) -> Iterator[ImageNeighbours]:
        """Yield for each stored image its ``k`` nearest other images, in the order of ids.

        ``within`` restricts which images count as neighbours; a ``k`` of None asks for all that do.
        """
        with self._gallery() as (snapshot, gallery):
            admitted = self._store.gallery(snapshot, within)
            yield from _neighbours(snapshot, gallery, admitted, k)

    def export_neighbours(
        self,
        path: PathLike,
        k: int | None = 10,
        within: Within | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        """Write :meth:`neighbours` as .csv, .jsonl, .parquet or .npz; return the row count."""
        with self._gallery() as (snapshot, gallery):
            admitted = self._store.gallery(snapshot, within)
            lists = _neighbours(snapshot, gallery, admitted, k)
            reported = _reported(lists, len(gallery), on_progress)
            return export.write_neighbours(Path(path), reported, snapshot.longest_path())

    def export_features(self, path: PathLike) -> int:
        """Write ids, paths and latents to a .npz, .parquet or .pkl file; return the row count."""
        return self._export(export.write_features, path)

    def export_index(self, path: PathLike) -> int:
        """Write a FAISS ``IndexIDMap2`` to a .faiss file; return the row count."""
        return self._export(export.write_index, path)

    def info(self) -> CollectionInfo:
        """Return facts about the collection."""
        with self._catalog.snapshot() as snapshot:
            encoder, feed = None, None
            with suppress(EncoderError):
                encoder = snapshot.encoder()
                feed = read_feed(self._encoder_directory(encoder.fingerprint))
            segments = snapshot.segments()
            return CollectionInfo(
                path=str(self._path),
                schema=SCHEMA,
                images=snapshot.count_images(),
                refused=snapshot.count_refused(),
                segments=len(segments),
                vector_bytes=sum(4 * segment.rows * segment.dim for segment in segments),
                encoder=encoder.fingerprint if encoder else None,
                dim=encoder.dim if encoder else None,
                image_size=(feed.height, feed.width) if feed else None,
            )

    def check(self) -> list[Damage]:
        """Compare every file of the collection with the catalog; return what is damaged."""
        with self._catalog.snapshot() as snapshot:
            damages = snapshot.damages(self._path / _CATALOG)
            with suppress(EncoderMissing):
                damages += self._encoder_damages(snapshot.encoder())
                damages += self._store.damages(snapshot)
        return damages

    def _find(self, roots: Paths) -> Iterator[ImageFile | ImageError]:
        return find(_listed(roots), exclude=str(self._path))

    def _sweep(self) -> None:
        """Remove what a writer that was killed left behind and no row names."""
        with self._catalog.snapshot() as snapshot:
            self._store.sweep(snapshot)
        for leftover in (self._path / "encoders").glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _new_ingest(self) -> Ingest:
        with self._catalog.snapshot() as snapshot:
            return Ingest(self._catalog, self._store, self._encoder(snapshot))

    @contextmanager
    def _gallery(self, within: Within | None = None) -> Iterator[tuple[Snapshot, Gallery]]:
        with self._catalog.snapshot() as snapshot:
            yield snapshot, self._store.gallery(snapshot, within)

    def _export(self, write: Callable[[Path, export.Features], None], path: PathLike) -> int:
        with self._gallery() as (snapshot, gallery):
            blocks = (
                (ids, [names[i] for i in ids.tolist()], rows)
                for ids, rows in gallery.blocks()
                for names in (snapshot.paths(ids.tolist()),)
            )
            n = len(gallery)
            write(Path(path), export.Features(blocks, n, gallery.dim, snapshot.longest_path()))
        return n

    def _encoder_directory(self, fingerprint: str) -> Path:
        return self._path / "encoders" / fingerprint

    def _encoder(self, snapshot: Snapshot) -> Encoder:
        record = snapshot.encoder()
        directory = self._encoder_directory(record.fingerprint)
        encoder = Encoder(directory)
        if (encoder.fingerprint, encoder.feed.dim) != (record.fingerprint, record.dim):
            raise EncoderMismatch(
                f"{directory / MODEL_NAME}: is not the encoder that made the vectors: expected "
                f"sha256 {record.fingerprint}, found {encoder.fingerprint}"
            )
        return encoder

    def _encoder_damages(self, record: EncoderRecord) -> list[Damage]:
        path = self._encoder_directory(record.fingerprint) / MODEL_NAME
        expected = f"sha256 {record.fingerprint}, {record.dim} values"
        try:
            encoder = Encoder(path.parent)
        except EncoderError as error:
            return [Damage(str(path), expected, str(error))]
        if (encoder.fingerprint, encoder.feed.dim) == (record.fingerprint, record.dim):
            return []
        found = f"sha256 {encoder.fingerprint}, {encoder.feed.dim} values"
        return [Damage(str(path), expected, found)]


def _listed(paths: Paths) -> list[str]:
    if isinstance(paths, str | os.PathLike):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]


def _create(directory: Path) -> None:
    """Make an empty collection in a new or empty directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(set(os.listdir(directory)) - _OWN_NAMES)
        if strangers:
            raise CollectionError(
                directory, f"is not a collection and not empty: it holds {strangers[0]!r}"
            )
        (directory / "segments").mkdir(exist_ok=True)
        (directory / "encoders").mkdir(exist_ok=True)
    except OSError as error:
        raise CollectionError(directory, f"cannot be created: {error.strerror}") from error
    with writer_lock(directory):
        Catalog(directory / _CATALOG).close()


def _neighbours(
    snapshot: Snapshot, gallery: Gallery, admitted: Gallery, k: int | None
) -> Iterator[ImageNeighbours]:
    for ids, rows in gallery.blocks():
        names = snapshot.paths(ids.tolist())
        for start in range(0, len(ids), _SEARCHED_AT_ONCE):
            part = slice(start, start + _SEARCHED_AT_ONCE)
            found = admitted.search(rows[part], None if k is None else k + 1)
            others = [
                _without(image_id, nearest, k)
                for image_id, nearest in zip(ids[part].tolist(), found, strict=True)
            ]
            matches = _matches(snapshot, others)
            for image_id, mine in zip(ids[part].tolist(), matches, strict=True):
                yield ImageNeighbours(image_id, names[image_id], mine)


def _without(image_id: int, nearest: Nearest, k: int | None) -> Nearest:
    """Return the first ``k`` of ``nearest`` that are not the image itself."""
    ids, distances = nearest
    others = ids != image_id
    return ids[others][:k], distances[others][:k]


def _matches(snapshot: Snapshot, found: Sequence[Nearest]) -> list[tuple[Match, ...]]:
    """Return the matches of each result, with ranks and paths."""
    paths = snapshot.paths(sorted({i for ids, _ in found for i in ids.tolist()}))
    return [
        tuple(
            Match(rank, image_id, paths[image_id], distance)
            for rank, (image_id, distance) in enumerate(
                zip(ids.tolist(), distances.tolist(), strict=True), start=1
            )
        )
        for ids, distances in found
    ]


def _reported(
    lists: Iterator[ImageNeighbours], total: int, on_progress: Progress | None
) -> Iterator[ImageNeighbours]:
    for done, item in enumerate(lists, start=1):
        yield item
        if on_progress is not None:
            on_progress(done, total)
