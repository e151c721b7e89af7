"""A collection: the one place where the parts meet."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from imgsim import export, repair, upkeep
from imgsim.catalog import Catalog
from imgsim.compaction import everything, what_pays
from imgsim.database import SCHEMA
from imgsim.encoder import Encoder, read_feed
from imgsim.encoders import Encoders, encoder_damages, encoder_directory, load_encoder
from imgsim.errors import (
    CollectionDamaged,
    CollectionError,
    CollectionNotFound,
    EncoderError,
    ImageError,
    ImgsimError,
)
from imgsim.files import (
    absolute,
    reading,
    writer_lock,
)
from imgsim.images import find
from imgsim.ingest import Ingest
from imgsim.latents import Latents, all_encoded
from imgsim.layout import CATALOG, new_collection
from imgsim.neighbours import all_neighbours, matches, reported
from imgsim.settings import EvaluationSettings, IngestSettings, TrainingSettings
from imgsim.snapshot import Snapshot
from imgsim.store import Gallery, VectorStore
from imgsim.types import (
    CollectionInfo,
    CompactReport,
    Damage,
    Evaluation,
    ImageFile,
    ImageNeighbours,
    IngestReport,
    Progress,
    QueryResult,
    Refusal,
    RepairReport,
    SearchStats,
    TrainingProgress,
    TrainingReport,
    UpkeepReport,
    Within,
)

PathLike = str | os.PathLike[str]
Paths = PathLike | Iterable[PathLike]
"""A path, or several."""


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
            size = (directory / CATALOG).stat().st_size
            if not size and any((directory / "segments").glob("*.faiss")):
                raise CollectionDamaged(directory / CATALOG, "an SQLite database", "an empty file")
        except (FileNotFoundError, NotADirectoryError) as error:
            if not create:
                raise CollectionNotFound(
                    directory, "there is no collection here; `imgsim train` makes one"
                ) from error
            new_collection(directory)
        except OSError as error:
            raise CollectionError(directory, f"cannot be opened: {error.strerror}") from error
        return cls(directory, Catalog(directory / CATALOG))

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

    @property
    def encoders(self) -> Encoders:
        """Return the encoders that the collection has: list, import, use, reencode."""
        return Encoders(self._path, self._catalog, self._store)

    def train(
        self,
        images: Paths,
        settings: TrainingSettings | None = None,
        on_progress: Callable[[TrainingProgress], None] = lambda _: None,
        *,
        name: str | None = None,
        resume: bool = False,
    ) -> TrainingReport:
        """Train an encoder on image files and folders.

        It becomes the collection's encoder unless that holds vectors of another, which stay until
        ``encoders.reencode``. With ``resume``, an interrupted training of the same images goes on
        with its own settings. Raises :class:`EncoderError` if that or the images or the settings do
        not allow training.
        """
        chosen = None if resume else settings or TrainingSettings()
        return self.encoders.train(self._find(images), chosen, on_progress, name)

    def ingest(
        self,
        paths: Paths,
        settings: IngestSettings | None = None,
        *,
        dry_run: bool = False,
        on_progress: Progress | None = None,
    ) -> IngestReport:
        """Store the images at and under ``paths`` that are new or changed.

        A file is unchanged if its path, size and modification time are, or else its content. One
        whose content is stored keeps that image's id if the other file is gone: it was moved. A
        batch that is committed stays, also when the run is interrupted or killed. ``dry_run`` only
        compares.
        """
        roots = [absolute(path) for path in _listed(paths) if path]
        if dry_run:
            return self._new_ingest(settings).preview(self._find(roots))
        with writer_lock(self._path):
            total = sum(1 for _ in self._find(roots)) if on_progress else 0
            upkeep.sweep(self._path, self._catalog, self._store)
            self._catalog.commit_roots([path for path in roots if os.path.isdir(path)])
            run = self._new_ingest(
                settings, lambda done: on_progress(done, total) if on_progress else None
            )
            report = run.run(self._find(roots))
            with self._catalog.snapshot() as snapshot:
                unmet = snapshot.count_under(roots) - report.stored
            warnings = []
            try:
                self._tidy(what_pays)
            except ImgsimError as error:
                warnings.append(str(error))
        return replace(report, unmet=unmet, warnings=tuple(warnings))

    def compact(self, *, dry_run: bool = False) -> CompactReport:
        """Merge small segments; drop vectors of removed images, and those of former encoders.

        Ingest merges and drops by itself when it pays, but never those of former encoders.
        """
        with self._writing(dry_run=dry_run):
            with self._catalog.snapshot() as snapshot:
                former = snapshot.count_former()
            if dry_run:
                report = upkeep.compact(self._catalog, self._store, everything, dry_run=True)
            else:
                self._catalog.forget_former()
                report = self._tidy(everything)
        return replace(report, dropped=report.dropped + former)

    def prune(self, *, dry_run: bool = False) -> UpkeepReport:
        """Forget the images whose files are gone; see :class:`UpkeepReport`.

        A folder that was ingested and is missing, or empty, keeps its images.
        """
        with self._writing(dry_run=dry_run):
            return upkeep.prune(self._catalog, dry_run=dry_run)

    def remove(self, paths: Paths, *, dry_run: bool = False) -> UpkeepReport:
        """Forget the images at and under ``paths``, whether files are there or not."""
        with self._writing(dry_run=dry_run):
            return upkeep.remove(self._catalog, _listed(paths), dry_run=dry_run)

    def relocate(self, old: PathLike, new: PathLike, *, dry_run: bool = False) -> UpkeepReport:
        """Note that what was at and under the path ``old`` is at ``new`` now.

        Raises :class:`StoreError` if images are stored under both.
        """
        with self._writing(dry_run=dry_run):
            paths = os.fspath(old), os.fspath(new)
            return upkeep.relocate(self._catalog, *paths, dry_run=dry_run)

    def refused(self) -> list[Refusal]:
        """Return the files that were refused, by path, and why."""
        with self._catalog.snapshot() as snapshot:
            return [Refusal(*pair) for pair in snapshot.refused_under("/").items()]

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
            encoder = load_encoder(self._path, snapshot.encoder())
            latents = all_encoded(paths, encoder, on_error)
            if not latents:
                return []
            nearest = gallery.search(np.stack([latent.vector for latent in latents]), k)
            on_stats(gallery.stats)
            return [
                QueryResult(latent.record.path, found)
                for latent, found in zip(latents, matches(snapshot, nearest), strict=True)
            ]

    def neighbours(
        self, k: int | None = 10, within: Within | None = None
    ) -> Iterator[ImageNeighbours]:
        """Yield for each stored image its ``k`` nearest other images, in the order of ids.

        ``within`` restricts which images count as neighbours; a ``k`` of None asks for all that do.
        """
        with self._gallery() as (snapshot, gallery):
            admitted = self._store.gallery(snapshot, within)
            yield from all_neighbours(snapshot, gallery, admitted, k)

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
            lists = all_neighbours(snapshot, gallery, admitted, k)
            lists = reported(lists, len(gallery), on_progress)
            return export.write_neighbours(Path(path), lists, snapshot.longest_path())

    def export_features(self, path: PathLike) -> int:
        """Write ids, paths and latents to a .npz, .parquet or .pkl file; return the row count."""
        return self._export(export.write_features, path)

    def export_index(self, path: PathLike) -> int:
        """Write a FAISS ``IndexIDMap2`` to a .faiss file; return the row count."""
        return self._export(export.write_index, path)

    def evaluate(
        self,
        labelled: PathLike,
        settings: EvaluationSettings | None = None,
        on_progress: Progress | None = None,
    ) -> Evaluation:
        """Say how well the encoder retrieves the labelled images at and under a path.

        They need not be stored; a file gets the vector that an ingest would store. Raises
        :class:`LabelError` if the labels match no images, or allow no retrieval.
        """
        from imgsim.evaluate import evaluate  # noqa: PLC0415 - scikit-learn takes seconds

        root = absolute(os.fspath(labelled))
        settings = settings or EvaluationSettings()
        return evaluate(self._encoder(), root, self._find([root]), settings, on_progress)

    def info(self) -> CollectionInfo:
        """Return facts about the collection."""
        with self._catalog.snapshot() as snapshot:
            encoder, feed = None, None
            with suppress(EncoderError):
                encoder = snapshot.encoder()
                feed = read_feed(encoder_directory(self._path, encoder.fingerprint))
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

    def check(self, *, deep: bool = False) -> list[Damage]:
        """Compare every file of the collection with the catalog; return what is damaged.

        With ``deep``, the image files are read as well: those whose size and time are what they
        were should have the content that they had.
        """
        with reading(self._path), self._catalog.snapshot() as snapshot:
            damages = snapshot.damages(self._path / CATALOG)
            for record in snapshot.encoders():
                directory = encoder_directory(self._path, record.fingerprint)
                damages += encoder_damages(directory, record.fingerprint, record.dim)
            damages += self._store.damages(snapshot)
            if deep:
                damages += repair.altered_images(snapshot)
        return damages

    def repair(self) -> RepairReport:
        """Make anew what can be: bounds from vectors, vectors from image files.

        An image whose vector is lost, and whose file is gone or is another image by now, is
        forgotten. What cannot be reached stays as it is, damaged; see :class:`RepairReport`.
        """
        with writer_lock(self._path):
            report = repair.repair(self._catalog, self._store, cache(self._encoder))
            if not report.kept:
                self._tidy(what_pays)
        return report

    def _find(self, roots: Paths) -> Iterator[ImageFile | ImageError]:
        return find(_listed(roots), exclude=str(self._path))

    def _tidy(self, choose: upkeep.Choice) -> CompactReport:
        return upkeep.tidy(self._path, self._catalog, self._store, choose)

    @contextmanager
    def _writing(self, *, dry_run: bool) -> Iterator[None]:
        with nullcontext() if dry_run else writer_lock(self._path):
            yield

    def _encoder(self) -> Encoder:
        with self._catalog.snapshot() as snapshot:
            return load_encoder(self._path, snapshot.encoder())

    def _new_ingest(
        self, settings: IngestSettings | None, on_progress: Callable[[int], None] = lambda _: None
    ) -> Ingest:
        latents = Latents(self._encoder(), self._catalog, self._store)
        settings = settings or IngestSettings()
        return Ingest(self._catalog, self._store, latents, settings, on_progress)

    @contextmanager
    def _gallery(self, within: Within | None = None) -> Iterator[tuple[Snapshot, Gallery]]:
        with reading(self._path), self._catalog.snapshot() as snapshot:
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


def _listed(paths: Paths) -> list[str]:
    if isinstance(paths, str | os.PathLike):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]
