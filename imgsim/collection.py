"""A collection: the one place where the parts meet."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim import __version__
from imgsim.cluster_options import ClusterSettings, MilvusSettings
from imgsim.curation.curation import Curation
from imgsim.directory import Directory, mend
from imgsim.encoder.embed import embed_images
from imgsim.encoder.encoder import Encoder
from imgsim.encoders import Encoders
from imgsim.errors import ImageError
from imgsim.files import absolute
from imgsim.images.scan import Notes, find
from imgsim.images.source import Images
from imgsim.jobs import forget
from imgsim.jobs.compact import compact_all, tidy, what_pays
from imgsim.jobs.facts import facts
from imgsim.jobs.ingest import ingest, preview
from imgsim.jobs.neighbours import NeighbourLists
from imgsim.jobs.repair import damages, repair
from imgsim.jobs.rows import fill_milvus, write_lists, write_rows
from imgsim.jobs.watch import watch
from imgsim.options import (
    MAX_PIXELS,
    DecodeRules,
    Device,
    EvaluationSettings,
    IngestSettings,
    PathLike,
    Paths,
    SearchFilter,
    TrainingSettings,
    checked_k,
    listed,
)
from imgsim.output import export
from imgsim.output.listing import (
    IMAGE_COLUMNS,
    NEIGHBOUR_COLUMNS,
    Listing,
    image_rows,
    neighbour_rows,
)
from imgsim.output.target import EMBEDDINGS, INDEXES, check_target
from imgsim.records import EncoderRecord
from imgsim.results import (
    CollectionInfo,
    CompactReport,
    Damage,
    ImageInfo,
    ImageNeighbours,
    IngestReport,
    Progress,
    Refusal,
    RepairReport,
    SearchResults,
    TrainingProgress,
    TrainingReport,
    UpkeepReport,
)
from imgsim.scores import AgreementReport, Evaluation
from imgsim.searcher import Searcher


class Collection(AbstractContextManager["Collection"]):
    """A directory of embeddings, their encoder, and a catalog of the images.

    Use :meth:`open`, and close it or use it as a context manager. Paths that come back are absolute
    strings, decoded as by :func:`os.fsdecode`.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._encoder: Encoder | None = None

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        create: bool = False,
        device: Device = "auto",
        catalog: str = "",
        cluster: ClusterSettings | MilvusSettings | None = None,
        storage: str = "",
    ) -> "Collection":
        """Open the collection in the directory ``path``; with ``create``, make it if there is none.

        A new one has its catalog in a file, or in PostgreSQL at the address ``catalog``, and its
        segments in its folder, or also in the bucket ``storage``, as ``s3://photos/2026``.
        A ``cluster`` of Ray searches and ingests, one of Milvus names what may be near.
        ``device`` cuda lets a GPU train and compute embeddings, where there is one. These have
        other last bits than the CPU's, so stick to one device. With ``auto`` it trains alone.
        Raises :class:`CollectionNotFound` if there is none and ``create`` is false, and other
        :class:`CollectionError` if the directory is something else, damaged, or of a newer imgsim.
        """
        at = Path(absolute(os.fspath(path))), create, catalog, storage
        return cls(Directory.open(*at, device=device, cluster=cluster))

    @staticmethod
    def mend(path: PathLike) -> str:
        """Mend a damaged catalog, so that the collection can be opened; return what was done.

        Its indexes are made anew, or all of it from what can be read, and the damaged file is kept.
        :meth:`repair` does the rest. A sound catalog stays as it is.
        """
        return mend(Path(absolute(os.fspath(path))))

    @property
    def path(self) -> Path:
        """Return the collection's folder."""
        return self._directory.path

    def close(self) -> None:
        """Close the catalog; whatever is asked of the collection raises ValueError from then on."""
        self._directory.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def encoders(self) -> Encoders:
        """Return the encoders that the collection has: list, add, use, reencode."""
        return Encoders(self._directory)

    @property
    def curation(self) -> Curation:
        """Return what the neighbours of images are good for: duplicates, outliers, samples."""
        return Curation(self._directory)

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

        It becomes the collection's encoder unless that holds embeddings by another, which stay
        until ``encoders.reencode``. With ``resume``, an interrupted training of the same images
        goes on with its own settings. Raises :class:`EncoderError` if training is not possible.
        """
        chosen = None if resume else settings or TrainingSettings()
        return self.encoders.train(listed(images), chosen, on_progress, name)

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
        whose content is stored keeps that image's id if the other file is gone: it was moved. One
        that is stored under another name, by a link or a mount, is not stored again. A batch that
        is committed stays, also when the run is interrupted or killed. ``dry_run`` only compares.
        """
        roots = [absolute(path) for path in listed(paths) if path]
        settings = settings or IngestSettings()
        files = partial(find, roots, settings.exclude, str(self.path))
        if dry_run:
            return preview(self._directory, files, settings)
        return ingest(self._directory, roots, files, settings, on_progress)

    def watch(
        self,
        paths: Paths,
        settings: IngestSettings | None = None,
        on_progress: Progress | None = None,
    ) -> Iterator[IngestReport]:
        """Ingest, and go on with what is new or changed, in batches, as it comes.

        Yields the report of the first :meth:`ingest`, which ``on_progress`` is about, and of each
        batch that did something. Others may write between them. A file counts when size and time
        are still. Ctrl-C ends it where nothing is to be done. May raise ExtraMissing.
        """
        roots = [absolute(path) for path in listed(paths) if path]
        return watch(self._directory, roots, settings or IngestSettings(), on_progress)

    def compact(self, *, dry_run: bool = False) -> CompactReport:
        """Merge small segments; drop embeddings of removed images, and by previous encoders.

        Ingest does so by itself when it pays, but never drops those by previous encoders.
        """
        with self._writing(dry_run=dry_run):
            return compact_all(self._directory, dry_run=dry_run)

    def prune(self, *, dry_run: bool = False) -> UpkeepReport:
        """Forget the images whose files are gone; see :class:`UpkeepReport`.

        A folder that was ingested and is missing or empty keeps its images, as does a drive that
        was mounted in it, or that a link in it led to.
        """
        with self._writing(dry_run=dry_run):
            return forget.prune(self._directory, dry_run=dry_run)

    def remove(self, paths: Paths, *, dry_run: bool = False) -> UpkeepReport:
        """Forget the images at and under ``paths``, whether files are there or not."""
        with self._writing(dry_run=dry_run):
            return forget.remove(self._directory, listed(paths), dry_run=dry_run)

    def relocate(
        self, old: PathLike, new: PathLike, *, dry_run: bool = False, force: bool = False
    ) -> UpkeepReport:
        """Note that what was at and under the path ``old`` is at ``new`` now.

        Raises :class:`StoreError` if images are stored under both, ValueError for ``/``, and
        without ``force`` :class:`ImageNotFound` if most of the files are not there.
        """
        paths = os.fspath(old), os.fspath(new)
        with self._writing(dry_run=dry_run):
            return forget.relocate(self._directory, *paths, dry_run=dry_run, force=force)

    def refused(self) -> list[Refusal]:
        """Return the files that were refused, by path, and why."""
        with self._directory.catalog.snapshot() as snapshot:
            return [Refusal(*pair) for pair in snapshot.refused_under("/").items()]

    def images(self, under: Paths = ()) -> Listing[ImageInfo]:
        """Return what the catalog knows of the stored images, or of those at and under some paths.

        They come in the order of ids, one by one or as a table; see :class:`Listing`.
        """
        places = [absolute(place) for place in listed(under)]

        def items() -> Iterator[ImageInfo]:
            with self._directory.catalog.snapshot() as snapshot:
                yield from snapshot.listed(places)

        return Listing(items, image_rows, IMAGE_COLUMNS)

    def embed(self, images: Images, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
        """Return the embeddings (n, dim) float32 of images, as an ingest would store them.

        See :meth:`Searcher.search` for what an image is. Raises :class:`ImageError`.
        """
        with self._directory.catalog.snapshot() as snapshot:
            record = snapshot.encoder()
        return embed_images(images, self._loaded(record), rules=DecodeRules(max_pixels))[1]

    def searcher(self, within: SearchFilter | None = None) -> Searcher:
        """Return what answers queries about the collection as it is now, and stays warm.

        ``within`` restricts which images count.
        """
        return Searcher(self._directory, within, self._loaded)

    def query(
        self,
        images: Images,
        k: int | None = 10,
        on_error: Callable[[ImageError], None] | None = None,
        *,
        within: SearchFilter | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> SearchResults:
        """Do what :meth:`Searcher.search` does, once."""
        checked_k(k)
        with self.searcher(within) as searcher:
            return searcher.search(images, k, on_error, max_pixels=max_pixels)

    def neighbours(
        self,
        k: int | None = 10,
        within: SearchFilter | None = None,
        on_progress: Progress | None = None,
    ) -> Listing[ImageNeighbours]:
        """Return for each stored image its ``k`` nearest other images (None: all), by id.

        ``within`` restricts which images count as neighbours. The lists are computed while they are
        taken, one by one or as a table; see :class:`Listing`.
        """
        lists = NeighbourLists(self._directory, checked_k(k), within or SearchFilter())
        return Listing(partial(lists, on_progress), neighbour_rows, NEIGHBOUR_COLUMNS)

    def export_neighbours(
        self,
        path: PathLike,
        k: int | None = 10,
        within: SearchFilter | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        """Write :meth:`neighbours` as .csv, .jsonl, .parquet or .npz; return the row count.

        A name without a suffix is a folder of .parquet files, where an interrupted export goes on;
        so is an address like ``s3://bucket/name``, where the workers of a cluster write them.
        """
        lists = NeighbourLists(self._directory, checked_k(k), within or SearchFilter())
        return write_lists(lists, on_progress, os.fspath(path))

    def export_embeddings(self, path: PathLike) -> int:
        """Write ids, paths and embeddings as .npz, .parquet or .pkl; return the row count."""
        check_target(Path(path), EMBEDDINGS)
        return write_rows(self._directory, export.write_embeddings, Path(path))

    def export_milvus(self, server: MilvusSettings, on_progress: Progress | None = None) -> int:
        """Let a Milvus server have ids, paths and embeddings; return how many there are."""
        return fill_milvus(self._directory, server, on_progress)

    def export_index(self, path: PathLike) -> int:
        """Write a FAISS ``IndexIDMap2`` to a .faiss file; return the row count."""
        check_target(Path(path), INDEXES)
        return write_rows(self._directory, export.write_index, Path(path))

    def evaluate(
        self,
        labelled: PathLike,
        settings: EvaluationSettings | None = None,
        on_progress: Progress | None = None,
        *,
        images: Paths | None = None,
        encoders: Sequence[str] = (),
    ) -> Evaluation:
        """Say how well the encoder retrieves the labelled images at and under a path.

        With names of ``encoders``, these are measured instead of the active one. With ``images``,
        files and folders, only those of them count. They need not be stored; a file gets the
        embedding that an ingest would store. Raises :class:`LabelError` if the labels match no
        images, or allow no retrieval.
        """
        from imgsim.evaluation.evaluate import evaluate  # noqa: PLC0415 - scikit-learn takes seconds

        root = absolute(os.fspath(labelled))
        settings = settings or EvaluationSettings()
        notes, chosen = Notes(), self._directory.load_encoders(encoders)
        wanted = [root] if images is None else images
        found = find(listed(wanted), settings.exclude, str(self.path), notes)
        evaluation = evaluate(chosen, root, found, settings, on_progress)
        return replace(evaluation, excluded=dict(notes.excluded))

    def agreement(
        self,
        images: Paths,
        settings: EvaluationSettings | None = None,
        on_progress: Progress | None = None,
        *,
        encoders: Sequence[str] = (),
    ) -> AgreementReport:
        """Say whether encoders name the same neighbours for pictures that are cropped or resaved.

        No labels are needed, and none of the settings about them count.
        """
        from imgsim.evaluation.agreement import agreement  # noqa: PLC0415 - SciPy takes a second

        settings = settings or EvaluationSettings()
        chosen = self._directory.load_encoders(encoders)
        found = find(listed(images), settings.exclude, str(self.path))
        return agreement(chosen, found, settings, on_progress)

    def info(self) -> CollectionInfo:
        """Return facts about the collection."""
        return facts(self._directory, __version__)

    def check(self, *, deep: bool = False) -> list[Damage]:
        """Compare every file of the collection with the catalog; return what is damaged.

        With ``deep``, the image files are read as well: those whose size and time are what they
        were should have the content that they had.
        """
        return damages(self._directory, deep=deep)

    def repair(self) -> RepairReport:
        """Make anew what can be: ids and bounds, and embeddings from image files.

        An image whose embedding is lost, and whose file is gone or is another image by now, is
        forgotten. What cannot be reached stays as it is, damaged; see :class:`RepairReport`.
        """
        with self._directory.writing():
            report = repair(self._directory)
            if report.kept:  # their segments can be neither merged nor bounded
                self._directory.build_tables()
            else:
                tidy(self._directory, what_pays)
        return report

    def _writing(self, *, dry_run: bool) -> AbstractContextManager[None]:
        return nullcontext() if dry_run else self._directory.writing()

    def _loaded(self, record: EncoderRecord) -> Encoder:
        """Return an encoder, which stays loaded."""
        encoder = self._encoder
        if encoder is None or encoder.fingerprint != record.fingerprint:
            self._encoder = encoder = self._directory.load_encoder(record)
        return encoder
