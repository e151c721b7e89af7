"""The encoders that a collection holds, one folder each."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from imgsim.catalog import Catalog, refuse_taken
from imgsim.checkpoints import Checkpoints
from imgsim.compaction import what_pays
from imgsim.encoder import MODEL_NAME, Encoder, read_feed
from imgsim.errors import EncoderError, EncoderMismatch, ImageError, ImgsimError
from imgsim.files import new_directory, publish_directory, writer_lock
from imgsim.layout import CHECKPOINTS
from imgsim.reencode import Reencode, take_over
from imgsim.repair import drop_damaged
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

        checkpoints = Checkpoints(self._path / CHECKPOINTS)
        with writer_lock(self._path), new_directory(self._path / "encoders") as scratch:
            if settings is not None and name is not None:
                refuse_taken(self._records(), name)
            trained = training.train(found, settings, scratch, checkpoints, on_progress, name)
            encoder = self._adopted(scratch, trained.name, instead=settings is None)
            if not trained.fit.interrupted:
                checkpoints.clear()
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

    def use(self, name: str) -> EncoderReport:
        """Let one take over that has a vector of every image, as the former encoder has.

        Vectors of it that are damaged are forgotten. Raises :class:`EncoderMismatch` if not all are
        there.
        """
        with writer_lock(self._path):
            record = self._named(name)
            load_encoder(self._path, record)
            drop_damaged(self._catalog, self._store, record)
            take_over(self._catalog, self._store, record)
            warnings = self._tidied()
        return EncoderReport(self.get(name), warnings)

    def remove(self, name: str) -> None:
        """Forget one that is not the active one, and its vectors.

        Raises :class:`EncoderError` for the active one.
        """
        with writer_lock(self._path):
            record = self._named(name)
            if record.active:
                raise EncoderError(f"{name} made the vectors in use; let another take over first")
            self._catalog.forget_encoder(record)
            sweep(self._path, self._catalog, self._store)

    def reencode(self, name: str, on_progress: Progress | None = None) -> ReencodeReport:
        """Give every image a vector of the encoder with this name, which then takes over.

        Queries are answered with the vectors there were until then. What is encoded is kept, also
        when the run is interrupted or killed; the next one goes on from there. The former vectors
        go with the next ``Collection.compact``.
        """
        with writer_lock(self._path):
            sweep(self._path, self._catalog, self._store)
            record = self._named(name)
            encoder = load_encoder(self._path, record)
            drop_damaged(self._catalog, self._store, record)
            report = Reencode(self._catalog, self._store, record).run(encoder, on_progress)
            warnings = self._tidied() if report.switched else ()
        return replace(report, warnings=warnings)

    def _tidied(self) -> tuple[str, ...]:
        """Tidy up after a switch, which stays whatever fails; return what did."""
        try:
            tidy(self._path, self._catalog, self._store, what_pays)
        except ImgsimError as error:
            return (str(error),)
        return ()

    def _records(self) -> Sequence[EncoderRecord]:
        with self._catalog.snapshot() as snapshot:
            return snapshot.encoders()

    def _named(self, name: str) -> EncoderRecord:
        with self._catalog.snapshot() as snapshot:
            return snapshot.encoder_named(name)

    def _adopted(self, scratch: Path, name: str | None, *, instead: bool = False) -> EncoderInfo:
        """Publish the encoder whose files are in ``scratch``, and note it in the catalog.

        With ``instead``, one that has the name loses it.
        """
        encoder = Encoder(scratch)
        facts = encoder.fingerprint, encoder.feed.dim
        if name is not None and not instead:
            refuse_taken(self._records(), name, encoder.fingerprint)
        directory = encoder_directory(self._path, encoder.fingerprint)
        if encoder_damages(directory, *facts):  # the same images and seed can give the same bytes
            shutil.rmtree(directory, ignore_errors=True)
            publish_directory(scratch, directory)
        with self._catalog.snapshot() as snapshot:
            if not snapshot.count_images():  # it becomes the active one, as in take_over
                self._store.forget_basis()
        record = self._catalog.add_encoder(*facts, name, instead=instead)
        with self._catalog.snapshot() as snapshot:
            return _described(self._path, snapshot, record)


def encoder_directory(collection: Path, fingerprint: str) -> Path:
    """Return where the encoder with this fingerprint belongs."""
    return collection / "encoders" / fingerprint


def load_encoder(collection: Path, record: EncoderRecord) -> Encoder:
    """Return the encoder, or raise :class:`EncoderMismatch` if the file is another one."""
    directory = encoder_directory(collection, record.fingerprint)
    encoder = Encoder(directory)
    if (encoder.fingerprint, encoder.feed.dim) != (record.fingerprint, record.dim):
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


def encoder_damages(directory: Path, fingerprint: str, dim: int) -> list[Damage]:
    """Return what is wrong with the files of an encoder, if anything is."""
    path, expected = directory / MODEL_NAME, f"sha256 {fingerprint}, {dim} values"
    try:
        encoder = Encoder(directory)
        found = f"sha256 {encoder.fingerprint}, {encoder.feed.dim} values"
    except EncoderError as error:
        found = str(error)
    return [] if found == expected else [Damage(str(path), expected, found)]
