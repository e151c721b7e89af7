"""What a collection's folder holds, and who may write to it."""

import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, get_args

from imgsim.bucket import URL_NAME as STORAGE_NAME
from imgsim.bucket import Bucket
from imgsim.catalog import salvage
from imgsim.catalog.catalog import Catalog
from imgsim.catalog.postgres import URL_NAME, address, url_of
from imgsim.catalog.snapshot import Snapshot
from imgsim.cluster.gallery import ShardedGallery
from imgsim.cluster.shards import Sharded, View
from imgsim.cluster.workers import Workers
from imgsim.cluster_options import ClusterSettings, MilvusSettings
from imgsim.encoder.encoder import MODEL_NAME, Encoder
from imgsim.errors import (
    CollectionDamaged,
    CollectionError,
    CollectionForbidden,
    CollectionLocked,
    CollectionNotFound,
    EncoderMismatch,
    StoreError,
)
from imgsim.files import replacing
from imgsim.index.gallery import Gallery, Searchable
from imgsim.index.vector_store import VectorStore
from imgsim.inventory import take_inventory
from imgsim.locks import reading, sole_reader, writer_lock
from imgsim.milvus import Milvus, MilvusGallery
from imgsim.options import Device, SearchFilter
from imgsim.records import FINGERPRINT, EncoderRecord, Inventory, state_of

CATALOG = "catalog.db"
CHECKPOINTS = "training"
ENCODERS = "encoders"
MANIFESTS = "manifests"
SEGMENTS = "segments"
THUMBNAILS = "thumbnails"
_OWN_NAMES = {
    "lock",
    "readers",
    THUMBNAILS,
    SEGMENTS,
    ENCODERS,
    CHECKPOINTS,
    MANIFESTS,
    CATALOG,
    f"{CATALOG}-wal",
    f"{CATALOG}-shm",
    URL_NAME,
    STORAGE_NAME,
}
_SCRATCH = re.compile(r"\.[0-9a-f]{16}\.tmp")
_SWEPT = re.compile(rf"{FINGERPRINT.pattern}|{_SCRATCH.pattern}")
_UNFINISHED = re.compile(rf"\.{re.escape(CATALOG)}\.(.*\.)?[0-9a-f]{{8}}\.tmp(-wal|-shm|-journal)?")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Directory:
    """The folder of a collection: the catalog says what exists, the store has the embeddings.

    Its encoders compute on ``device``. Where there are ``workers``, they search and encode; with
    ``milvus``, a server names candidates.
    """

    path: Path
    catalog: Catalog
    store: VectorStore
    device: Device = "auto"
    workers: Workers | None = None
    milvus: MilvusSettings | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        create: bool,
        catalog: str = "",
        storage: str = "",
        *,
        device: Device = "auto",
        cluster: ClusterSettings | MilvusSettings | None = None,
    ) -> Self:
        """Open the collection at ``path``, or create it there.

        The catalog of a new one is a file in it, or in the database at the address ``catalog``; its
        segments are files in it, of which the bucket at the address ``storage`` has all.
        Raises :class:`CollectionNotFound` if there is none and ``create`` is false, and other
        :class:`CollectionError` if the folder is something else, damaged, or of a newer imgsim;
        ValueError for a device that is none.
        """
        if device not in get_args(Device):
            raise ValueError(f"{device}: must be one of {', '.join(get_args(Device))}")
        try:
            _require(path, catalog, storage)
        except (FileNotFoundError, NotADirectoryError) as error:
            if path.exists() and not path.is_dir():
                raise CollectionNotFound(path, "is a file; a collection is a folder") from error
            if not create:
                raise CollectionNotFound(
                    path,
                    "there is no collection here; `imgsim train` and `imgsim encoder import` make "
                    "one, as does `Collection.open` with `create=True`",
                ) from error
            _new_collection(path, catalog, storage)
        except PermissionError as error:
            raise CollectionForbidden(path, f"cannot be opened: {error.strerror}") from error
        except OSError as error:
            raise CollectionError(path, f"cannot be opened: {error.strerror}") from error
        _refuse_links(path)
        workers, milvus = None, cluster if isinstance(cluster, MilvusSettings) else None
        if isinstance(cluster, ClusterSettings):
            workers = Workers(cluster, Sharded(path / SEGMENTS, Bucket.noted(path)))
        store = _store(path)
        directory = cls(path, Catalog(path / CATALOG), store, device, workers, milvus)
        if directory.catalog.was_upgraded:
            with suppress(CollectionError, StoreError), directory.writing():
                directory.build_tables()  # or the next writer does
        return directory

    def close(self) -> None:
        """Close the catalog, and leave the cluster."""
        self.catalog.close()
        if self.workers:
            self.workers.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer, or raise :class:`CollectionLocked` or :class:`CollectionError`."""
        with writer_lock(self.path), self.catalog.writing():
            _refuse_links(self.path)
            if not self.catalog.is_in_place():
                raise CollectionError(self.path, "its catalog was replaced meanwhile; open it anew")
            yield

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """Read one instant, whose files stay meanwhile."""
        with reading(self.path), self.catalog.snapshot() as snapshot:
            yield snapshot

    @contextmanager
    def gallery(
        self, snapshot: Snapshot, within: SearchFilter | None = None
    ) -> Iterator[Searchable]:
        """Lend the embeddings that exist in ``snapshot``, or those that ``within`` admits."""
        within = within or SearchFilter()
        rows, dim = snapshot.segment_rows(within), snapshot.encoder().dim
        here = partial(self.store.gallery, rows, dim, within.radius, snapshot.segment_ids)
        gallery: Searchable
        if self.workers:
            view = View(rows, dim, within.radius)
            gallery = ShardedGallery(self.workers.shards, view, snapshot.segment_ids)
        elif self.milvus:
            gallery = self._beside_milvus(self.milvus, snapshot, here(), within.radius)
        else:
            gallery = here()
        try:
            yield gallery
        finally:
            gallery.close()

    def _beside_milvus(
        self, settings: MilvusSettings, snapshot: Snapshot, here: Gallery, radius: float
    ) -> MilvusGallery:
        """Return a gallery of which a server names candidates, or raise what is wrong with it."""
        everything = snapshot.segment_rows()
        total = sum(each.count for each in everything)
        with ExitStack() as opening:
            opening.callback(here.close)
            server = Milvus(settings, self.path, state_of(everything))
            opening.callback(server.close)
            server.require(total)
            opening.pop_all()
        return MilvusGallery(server, here, radius, total)

    def encoder_path(self, fingerprint: str) -> Path:
        """Return where the encoder with this fingerprint belongs."""
        if not FINGERPRINT.fullmatch(fingerprint):  # a damaged catalog may have any
            raise CollectionDamaged(self.path / CATALOG, "a sha256", repr(fingerprint))
        return self.path / ENCODERS / fingerprint

    def load_encoder(self, record: EncoderRecord | None = None) -> Encoder:
        """Return an encoder, or the active one.

        Raises :class:`EncoderMismatch` if the file is another one.
        """
        if record is None:
            with self.catalog.snapshot() as snapshot:
                record = snapshot.encoder()
        directory = self.encoder_path(record.fingerprint)
        encoder = Encoder(directory, record.fingerprint, self.device)
        if encoder.preprocessing.dim != record.dim:
            raise EncoderMismatch(
                f"{directory / MODEL_NAME}: gives {encoder.preprocessing.dim} values, and the "
                f"embeddings have {record.dim}"
            )
        return encoder

    def load_encoders(self, names: Sequence[str]) -> dict[str, Encoder]:
        """Return the encoders that are called so, or the active one, by their names."""
        with self.catalog.snapshot() as snapshot:
            records = [*map(snapshot.encoder_named, names)] or [snapshot.encoder()]
        return {record.name: self.load_encoder(record) for record in records}

    def sweep(self) -> None:
        """Remove the files that no row names, unless a reader may still need one.

        Where one that a row names is missing, another may be it.
        """
        for path in self.path.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with self.catalog.snapshot() as snapshot, sole_reader(self.path) as alone:
            snapshot.verify()  # or what is needed would look as if it were not
            if not alone:
                _LOG.debug("somebody reads: what is no longer needed stays for now")
                return
            self.store.sweep(snapshot.segment_names())
            named = {encoder.fingerprint for encoder in snapshot.encoders()}
        folder = self.path / ENCODERS
        swept = _SWEPT if all((folder / each).is_dir() for each in named) else _SCRATCH
        for directory in folder.iterdir():
            if directory.name not in named and swept.fullmatch(directory.name):
                shutil.rmtree(directory, ignore_errors=True)  # it follows no link

    def inventory(self) -> Inventory:
        """Return what is there, whatever the catalog says."""
        return take_inventory(self.path / ENCODERS, self.store)

    def build_derived(self) -> None:
        """Write the tables of rows and the bounds that are missing."""
        self.build_tables()
        with self.catalog.snapshot() as snapshot:
            self.store.build_bounds(snapshot.segments(), snapshot.segment_ids)

    def build_tables(self) -> None:
        """Write the tables of rows that are missing."""
        with self.catalog.snapshot() as snapshot:
            segments = snapshot.segments() + snapshot.spare_segments()
            self.store.build_tables(segments, snapshot.segment_ids)


def _require(path: Path, catalog: str, storage: str) -> None:
    """Raise OSError where there is no collection, CollectionError where its parts are elsewhere."""
    url = url_of(path / CATALOG)
    size = len(url) if url is not None else (path / CATALOG).stat().st_size
    if catalog and url != address(catalog, path):
        raise CollectionError(path, "has its catalog elsewhere; leave out --catalog")
    if storage and storage != getattr(Bucket.noted(path), "url", ""):
        raise CollectionError(path, "has its segments elsewhere; leave out --storage")
    if not size and any((path / SEGMENTS).glob("*.faiss")):
        raise CollectionDamaged(path / CATALOG, "an SQLite database", "an empty file")


def _store(path: Path) -> VectorStore:
    return VectorStore(path / SEGMENTS, Bucket.noted(path))


def is_collection(folder: Path) -> bool:
    """Say whether a folder is a collection, as far as the names in it say."""
    has_catalog = (folder / CATALOG).exists() or (folder / URL_NAME).exists()
    return has_catalog and (folder / SEGMENTS).is_dir()


def mend(path: Path) -> str:
    """Mend the catalog of the collection at ``path``, and return what was done.

    A sound one stays as it is. See :func:`imgsim.catalog.salvage.mend`.
    """
    _refuse_links(path)
    if not (path / CATALOG).is_file():
        return ""  # opening it says what is wrong
    with writer_lock(path):
        store = _store(path)
        return salvage.mend(path / CATALOG, lambda: take_inventory(path / ENCODERS, store))


def discard(path: Path) -> None:
    """Remove a new collection that nothing has come into; any other stays."""
    held = path / SEGMENTS, path / ENCODERS
    is_empty = all(folder.is_dir() and not os.listdir(folder) for folder in held)
    if not is_empty or (path / CHECKPOINTS).exists() or (path / MANIFESTS).exists():
        return
    if bucket := Bucket.noted(path):
        with suppress(StoreError):  # then it stays claimed
            bucket.release()
    for folder in held:
        folder.rmdir()
    for name in _OWN_NAMES:
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):  # there may be something else in it
        path.rmdir()


def _refuse_links(path: Path) -> None:
    """Raise :class:`CollectionError` if something in a collection is a link, to other files.

    What is written or removed in the collection would be so there.
    """
    for name in sorted(_OWN_NAMES):
        try:
            facts = os.lstat(path / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CollectionError(path, f"cannot be opened: {error.strerror}") from error
        shared = facts.st_nlink > 1 and name.startswith(CATALOG)  # SQLite overwrites it
        if stat.S_ISLNK(facts.st_mode) or shared:
            raise CollectionError(path, f"{name} in it is a link, which imgsim does not follow")


def _new_collection(directory: Path, catalog: str, storage: str) -> None:
    """Make an empty collection in a new or empty directory, what belongs elsewhere at addresses."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(set(os.listdir(directory)) - _OWN_NAMES)
        if strangers:
            raise CollectionError(
                directory, f"is not a collection and not empty: it holds {strangers[0]!r}"
            )
        (directory / SEGMENTS).mkdir(exist_ok=True)
        (directory / ENCODERS).mkdir(exist_ok=True)
    except PermissionError as error:
        raise CollectionForbidden(directory, f"cannot be created: {error.strerror}") from error
    except OSError as error:
        raise CollectionError(directory, f"cannot be created: {error.strerror}") from error
    try:
        with writer_lock(directory):
            if catalog:
                with replacing(directory / URL_NAME) as temporary:
                    temporary.write_text(address(catalog, directory) + "\n")
            if storage:
                Bucket.claimed(storage, directory)
            new = Catalog(directory / CATALOG)
            try:
                new.refuse_another(directory)
            finally:
                new.close()
    except CollectionLocked:  # somebody else makes it
        raise
    except (CollectionError, StoreError):
        with suppress(OSError):
            discard(directory)
        raise
