"""The encoders that a collection holds, one folder each."""

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from imgsim.catalog import Catalog
from imgsim.checkpoints import Checkpoints
from imgsim.compaction import what_pays
from imgsim.encoder import MODEL_NAME, Encoder, read_feed
from imgsim.errors import EncoderError, EncoderMismatch, ImageError
from imgsim.files import new_directory, publish_directory, writer_lock
from imgsim.layout import CHECKPOINTS
from imgsim.reencode import Reencode, take_over
from imgsim.settings import EncoderSource, TrainingSettings
from imgsim.snapshot import Snapshot
from imgsim.store import VectorStore
from imgsim.types import (
    Damage,
    EncoderInfo,
    EncoderRecord,
    EncoderReport,
    ImageFile,
    Progress,
    ReencodeReport,
    TrainingProgress,
    TrainingReport,
)
from imgsim.upkeep import sweep, tidy


class Encoders:
    """The encoders of a collection, of which the active one made the vectors that are searched."""

    def __init__(self, collection: Path, catalog: Catalog, store: VectorStore) -> None:
        self._path = collection
        self._catalog = catalog
        self._store = store

    def list(self) -> list[EncoderInfo]:
        """Return facts about all of them, the oldest first."""
        with self._catalog.snapshot() as snapshot:
            return [_described(self._path, snapshot, record) for record in snapshot.encoders()]

    def get(self, name: str) -> EncoderInfo:
        """Return facts about one, by its name; raise :class:`EncoderMissing` if there is none."""
        with self._catalog.snapshot() as snapshot:
            return _described(self._path, snapshot, snapshot.encoder_named(name))

    def train(
        self,
        found: Iterable[ImageFile | ImageError],
        settings: TrainingSettings | None,
        on_progress: Callable[[TrainingProgress], None],
        name: str | None,
    ) -> TrainingReport:
        """Train one on files, or go on with a training if there are no settings.

        See ``Collection.train``.
        """
        from imgsim import training  # noqa: PLC0415 - TensorFlow takes seconds

        if name in {each.name for each in self.list()}:
            raise EncoderError(f"another encoder has the name {name}; choose one with --name")
        checkpoints = Checkpoints(self._path / CHECKPOINTS)
        with writer_lock(self._path), new_directory(self._path / "encoders") as scratch:
            trained = training.train(found, settings, scratch, checkpoints, on_progress)
            encoder = self._adopted(scratch, name)
            if not trained.fit.interrupted:
                shutil.rmtree(checkpoints.directory, ignore_errors=True)
        return TrainingReport(
            encoder=encoder,
            images=trained.images,
            refused=trained.refused,
            history=trained.fit.history,
            best_epoch=trained.fit.best_epoch,
            interrupted=trained.fit.interrupted,
            compared=trained.compared,
            onnx_difference=trained.onnx_difference,
            colours=trained.colours,
        )

    def import_(self, source: EncoderSource) -> EncoderReport:
        """Add an ONNX model, or a layer of a Keras model.

        It becomes the active one unless there are vectors of another. Raises :class:`EncoderError`
        if the file is none, or unfit.
        """
        from imgsim.foreign import adopt  # noqa: PLC0415 - onnx takes a while

        with writer_lock(self._path), new_directory(self._path / "encoders") as scratch:
            warnings = adopt(source, scratch)
            return EncoderReport(self._adopted(scratch, source.name), tuple(warnings))

    def use(self, name: str) -> None:
        """Let one take over that has a vector of every image, as the former encoder has.

        Raises :class:`EncoderMismatch` if it has not.
        """
        with writer_lock(self._path):
            record = self._named(name)
            load_encoder(self._path, record)
            take_over(self._catalog, self._store, record)
            tidy(self._path, self._catalog, self._store, what_pays)

    def reencode(self, name: str, on_progress: Progress | None = None) -> ReencodeReport:
        """Give every image a vector of the encoder with this name, which then takes over.

        Queries are answered with the vectors there were until then. What is encoded is kept, also
        when the run is interrupted or killed; the next one goes on from there. The former vectors
        go with the next ``Collection.compact``.
        """
        with writer_lock(self._path):
            sweep(self._path, self._catalog, self._store)
            record = self._named(name)
            run = Reencode(self._catalog, self._store, record)
            report = run.run(load_encoder(self._path, record), on_progress)
            if report.switched:
                tidy(self._path, self._catalog, self._store, what_pays)
        return report

    def _named(self, name: str) -> EncoderRecord:
        with self._catalog.snapshot() as snapshot:
            return snapshot.encoder_named(name)

    def _adopted(self, scratch: Path, name: str | None) -> EncoderInfo:
        """Publish the encoder whose files are in ``scratch``, and note it in the catalog."""
        encoder = Encoder(scratch)
        directory = encoder_directory(self._path, encoder.fingerprint)
        if not directory.exists():  # the same images and seed can give the same bytes
            publish_directory(scratch, directory)
        record = self._catalog.add_encoder(encoder.fingerprint, encoder.feed.dim, name)
        with self._catalog.snapshot() as snapshot:
            return _described(self._path, snapshot, record)


def encoder_directory(collection: Path, fingerprint: str) -> Path:
    """Return where the encoder with this fingerprint belongs."""
    return collection / "encoders" / fingerprint


def load_encoder(collection: Path, record: EncoderRecord) -> Encoder:
    """Return the encoder, or raise :class:`EncoderMismatch` if the file is another one."""
    directory = encoder_directory(collection, record.fingerprint)
    encoder = Encoder(directory)
    if not _is_that(encoder, record):
        raise EncoderMismatch(
            f"{directory / MODEL_NAME}: is not the encoder that made the vectors: expected "
            f"sha256 {record.fingerprint}, found {encoder.fingerprint}"
        )
    return encoder


def _described(collection: Path, snapshot: Snapshot, record: EncoderRecord) -> EncoderInfo:
    """Return facts about an encoder; its ``feed`` is empty if the file cannot be read."""
    directory, images = encoder_directory(collection, record.fingerprint), snapshot.count_images()
    feed: dict[str, object] = {}
    with suppress(EncoderError):
        feed = asdict(read_feed(directory))
    return EncoderInfo(
        name=record.name,
        fingerprint=record.fingerprint,
        active=record.active,
        dim=record.dim,
        vectors=images - snapshot.count_unplaced(record),
        images=images,
        feed=feed,
        directory=str(directory),
    )


def encoder_damages(collection: Path, record: EncoderRecord) -> list[Damage]:
    """Return what is wrong with the encoder's files."""
    path = encoder_directory(collection, record.fingerprint) / MODEL_NAME
    expected = f"sha256 {record.fingerprint}, {record.dim} values"
    try:
        encoder = Encoder(path.parent)
    except EncoderError as error:
        return [Damage(str(path), expected, str(error))]
    if _is_that(encoder, record):
        return []
    found = f"sha256 {encoder.fingerprint}, {encoder.feed.dim} values"
    return [Damage(str(path), expected, found)]


def _is_that(encoder: Encoder, record: EncoderRecord) -> bool:
    return (encoder.fingerprint, encoder.feed.dim) == (record.fingerprint, record.dim)
