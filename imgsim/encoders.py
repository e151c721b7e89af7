"""The encoders that a collection holds, one folder each."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from imgsim.catalog.catalog import refuse_taken
from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import CHECKPOINTS, ENCODERS, Directory
from imgsim.encoder.applications import APPLICATIONS, weights_of
from imgsim.encoder.encoder import MODEL_NAME, Encoder, encoder_damages
from imgsim.encoder.preprocessing import PREPROCESSING_NAME, read_preprocessing
from imgsim.errors import EncoderError, ImgsimError
from imgsim.files import new_directory, publish_directory, renew_besides
from imgsim.images.decode import sorted_out
from imgsim.images.frame import Frame
from imgsim.images.scan import Notes, find
from imgsim.jobs.compact import tidy, what_pays
from imgsim.jobs.reencode import Reencode, take_over
from imgsim.jobs.repair import drop_damaged
from imgsim.options import (
    AdaptSettings,
    BatchLimits,
    DecodeRules,
    EncoderSource,
    PathLike,
    Paths,
    TrainingSettings,
    listed,
)
from imgsim.records import EncoderRecord
from imgsim.results import (
    AdaptReport,
    EncoderInfo,
    EncoderReport,
    PretrainedNetwork,
    Progress,
    ReencodeReport,
    TrainingProgress,
    TrainingReport,
)
from imgsim.training.checkpoints import Checkpoints, TrainingJob, TrainingState
from imgsim.training.images import TrainingImages
from imgsim.training.runtime import tensorflow
from imgsim.training.stages import preparing


class Encoders:
    """The encoders of a collection; the active one made the embeddings that are searched."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._catalog = directory.catalog

    def list(self) -> list[EncoderInfo]:
        """Return facts about all of them, the oldest first."""
        with self._catalog.snapshot() as snapshot:
            return [_described(self._directory, snapshot, record) for record in snapshot.encoders()]

    def get(self, name: str) -> EncoderInfo:
        """Return facts about one, by its name; raise :class:`EncoderMissing` if there is none."""
        with self._catalog.snapshot() as snapshot:
            return _described(self._directory, snapshot, snapshot.encoder_named(name))

    def train(
        self,
        images: Sequence[str],
        settings: TrainingSettings | None,
        on_progress: Callable[[TrainingProgress], None],
        name: str | None,
    ) -> TrainingReport:
        """Train one on image files and folders, or go on with a training without settings.

        See ``Collection.train``.
        """
        checkpoints, began = Checkpoints(self._directory.path / CHECKPOINTS), time.monotonic()
        with self._writing() as scratch:
            begin = checkpoints.load() if settings is None else settings
            if settings is not None and name is not None:
                refuse_taken(self._records(), name)

            def publish(chosen: str | None) -> EncoderInfo:
                return self._published(scratch, chosen, instead=settings is None)

            chosen = begin.settings if isinstance(begin, TrainingState) else begin
            notes = Notes()
            found = find(images, chosen.exclude, str(self._directory.path), notes)
            network = self._network(chosen)
            side, fit = chosen.image_size, network.preprocessing.fit if network else "stretch"
            files = TrainingImages(found, Frame(side, side, fit), DecodeRules(chosen.max_pixels))
            files.split(chosen)  # or it raises, before TensorFlow has taken its seconds
            on_progress(preparing(chosen))
            with tensorflow(self._directory.device):
                from imgsim.training.start import train_decoder  # noqa: PLC0415 - as just said
                from imgsim.training.train import train  # noqa: PLC0415 - as just said

            job = TrainingJob(scratch, checkpoints, began, name)
            if network is None:
                report = train(files, begin, job, publish, on_progress)
            else:
                report = train_decoder(files, network, begin, job, publish, on_progress)
        return replace(report, excluded=dict(notes.excluded))

    def add(self, source: EncoderSource, *, rename: bool = False) -> EncoderReport:
        """Add an ONNX model, or a layer of a Keras model.

        It becomes the active one unless there are embeddings by another. Raises
        :class:`EncoderError` if the file is none, or unfit, or without ``rename`` if the same
        encoder is there under another name.
        """
        from imgsim.encoder.importing import adopt  # noqa: PLC0415 - onnx takes a while

        with self._writing() as scratch:
            if source.layer is not None:
                with tensorflow():
                    from imgsim.training.export import export_layer  # noqa: PLC0415 - as in train

                file = Path(source.file)
                export_layer(file, source.layer, source.image_size, scratch / MODEL_NAME)
            warnings = adopt(source, scratch)
            if not rename:
                self._refuse_other_name(
                    scratch, source.name, source.file, "; `--rename` renames it"
                )
            return EncoderReport(self._published(scratch, source.name), tuple(warnings))

    def add_pretrained(
        self, network: str, *, weights: PathLike | None = None, name: str | None = None
    ) -> EncoderReport:
        """Add a network that was trained on ImageNet, called ``name`` or as it is.

        :meth:`networks` has those that there are. Without the file ``weights``, they come from the
        package that is installed for the network, or from a cache of Keras. Nothing is downloaded.
        Raises :class:`EncoderError` if there are none.
        """
        from imgsim.encoder.importing import adopt  # noqa: PLC0415 - onnx takes a while
        from imgsim.encoder.pretrained import write_pretrained  # noqa: PLC0415 - as above

        with self._writing() as scratch:
            file = None if weights is None else os.fspath(weights)
            write = _write_application if network in APPLICATIONS else write_pretrained
            source = replace(write(network, file, scratch), name=name or network)
            warnings = adopt(source, scratch)
            self._refuse_other_name(scratch, source.name, network)
            return EncoderReport(self._published(scratch, source.name), tuple(warnings))

    def adapt(
        self,
        name: str,
        images: Paths,
        settings: AdaptSettings | None = None,
        on_progress: Progress | None = None,
        *,
        new_name: str | None = None,
    ) -> AdaptReport:
        """Fit last layers to image files and folders, and join them to the encoder ``name``.

        That makes another encoder, called ``new_name`` or else ``name`` with ``-adapted`` behind
        it. It becomes the active one unless there are embeddings by another. Labels are not looked
        at. Raises :class:`EncoderError` if the images or the encoder do not allow it.
        """
        from imgsim.encoder.adapt import adapt  # noqa: PLC0415 - scikit-learn takes seconds

        settings, notes = settings or AdaptSettings(), Notes()
        found = find(listed(images), settings.exclude, str(self._directory.path), notes)
        with self._writing() as scratch:
            record = self._named(name)
            encoder = self._directory.load_encoder(record)
            chosen = new_name or f"{record.name}-adapted"
            refuse_taken(self._records(), chosen)
            paths, refused = sorted_out(found)
            made = adapt(encoder, paths, settings, scratch, on_progress)
            self._refuse_other_name(scratch, chosen, chosen)
            info = self._published(scratch, chosen)
        return AdaptReport(
            info, made.images, made.colours, (*refused, *made.refused), dict(notes.excluded)
        )

    def use(self, name: str) -> EncoderReport:
        """Let one take over that has an embedding of every image, as the previous encoder has.

        Embeddings by it that are damaged are forgotten. Raises :class:`EncoderMismatch` if not all
        are there.
        """
        with self._directory.writing():
            record = self._named(name)
            self._directory.load_encoder(record)
            drop_damaged(self._directory, record)
            take_over(self._directory, record)
            warnings = self._tidied()
        return EncoderReport(self.get(name), warnings)

    def remove(self, name: str) -> None:
        """Forget one that is not the active one, and its embeddings.

        Raises :class:`EncoderError` for the active one.
        """
        with self._directory.writing():
            record = self._named(name)
            if record.active:
                raise EncoderError(
                    f"{name} made the embeddings in use; let another take over first"
                )
            self._catalog.forget_encoder(record)
            self._directory.sweep()

    def reencode(
        self,
        name: str,
        on_progress: Progress | None = None,
        batch: BatchLimits | None = None,
    ) -> ReencodeReport:
        """Give every image an embedding by the encoder with this name, which then takes over.

        Queries are answered with the embeddings there were until then. What is encoded is kept,
        also when the run is interrupted or killed; the next one goes on from there. The previous
        embeddings go with the next ``Collection.compact``.
        """
        with self._directory.writing():
            self._directory.sweep()
            record = self._named(name)
            encoder = self._directory.load_encoder(record)
            drop_damaged(self._directory, record)
            report = Reencode(self._directory, record, batch or BatchLimits()).run(
                encoder, on_progress
            )
            warnings = self._tidied() if report.switched else ()
        return replace(report, warnings=warnings)

    @staticmethod
    def networks() -> Sequence[PretrainedNetwork]:
        """Return the networks that :meth:`add_pretrained` adds."""
        from imgsim.encoder.pretrained import networks  # noqa: PLC0415 - onnx takes a while

        return networks()

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Be the one writer, and yield a folder for the files of a new encoder."""
        directory = self._directory
        with directory.writing(), new_directory(directory.path / ENCODERS) as scratch:
            yield scratch

    def _tidied(self) -> tuple[str, ...]:
        """Tidy up after a switch, which stays whatever fails; return what did."""
        try:
            tidy(self._directory, what_pays)
        except ImgsimError as error:
            return (str(error),)
        return ()

    def _records(self) -> Sequence[EncoderRecord]:
        with self._catalog.snapshot() as snapshot:
            return snapshot.encoders()

    def _refuse_other_name(
        self, directory: Path, name: str | None, what: str, remedy: str = ""
    ) -> None:
        """Raise :class:`EncoderError` if an encoder is there under another name than asked for."""
        fingerprint = Encoder(directory).fingerprint
        for record in self._records():
            if record.fingerprint == fingerprint and name not in {None, record.name}:
                raise EncoderError(f"{what}: is there already, as {record.name}{remedy}")

    def _network(self, settings: TrainingSettings) -> Encoder | None:
        """Return the encoder that a training starts from, if it starts from one."""
        if settings.start is None:
            return None
        return self._directory.load_encoder(self._named(settings.start))

    def _named(self, name: str) -> EncoderRecord:
        with self._catalog.snapshot() as snapshot:
            return snapshot.encoder_named(name)

    def _published(self, scratch: Path, name: str | None, *, instead: bool = False) -> EncoderInfo:
        """Publish the encoder whose files are in ``scratch``, and note it in the catalog.

        With ``instead``, one that has the name loses it.
        """
        encoder = Encoder(scratch)
        facts = encoder.fingerprint, encoder.preprocessing.dim
        if name is not None and not instead:
            refuse_taken(self._records(), name, encoder.fingerprint)
        directory = self._directory.encoder_path(encoder.fingerprint)
        if encoder_damages(directory, *facts):  # the same images and seed can give the same bytes
            shutil.rmtree(directory, ignore_errors=True)
            publish_directory(scratch, directory)
        else:
            renew_besides(scratch, directory, (MODEL_NAME, PREPROCESSING_NAME))
        with self._catalog.snapshot() as snapshot:
            if not snapshot.count_images():  # it becomes the active one, as in take_over
                self._directory.store.forget_projection()
        record = self._catalog.add_encoder(*facts, name, instead=instead)
        with self._catalog.snapshot() as snapshot:
            return _described(self._directory, snapshot, record)


def _write_application(network: str, weights: str | None, directory: Path) -> EncoderSource:
    """Write the model of a network of Keras into ``directory``; return how it is fed."""
    application, path = APPLICATIONS[network], weights_of(network, weights)
    with tensorflow():
        from imgsim.training.applications import (  # noqa: PLC0415 - TensorFlow takes seconds
            export_application,
        )
    export_application(application, path, directory / MODEL_NAME)
    return replace(application.fed, file=str(path), normalize=True)


def _described(directory: Directory, snapshot: Snapshot, record: EncoderRecord) -> EncoderInfo:
    """Return facts about an encoder; no ``preprocessing`` if the file cannot be read."""
    path, images = directory.encoder_path(record.fingerprint), snapshot.count_images()
    preprocessing: dict[str, object] = {}
    with suppress(EncoderError):
        preprocessing = asdict(read_preprocessing(path))
    return EncoderInfo(
        name=record.name,
        fingerprint=record.fingerprint,
        active=record.active,
        dim=record.dim,
        embeddings=images - snapshot.count_unstaged(record),
        images=images,
        preprocessing=preprocessing,
        directory=str(path),
    )
