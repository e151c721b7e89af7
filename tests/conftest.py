import gc
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from imgsim import BatchLimits, Collection, IngestSettings
from imgsim.catalog.catalog import Catalog
from imgsim.directory import Directory
from imgsim.encoder.preprocessing import read_preprocessing
from imgsim.index.vector_store import VectorStore
from imgsim.jobs import batch
from tests import postgres as postgresql
from tests.pictures import write_crops
from tests.prepared import Prepared

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(os.environ.get("IMGSIM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def interruptible() -> None:
    """Undo in a child what a background job inherits: that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def file_limit(most: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes; a write that would is cut short, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def encoder_directory() -> Path:
    (directory,) = (GOLDEN / "0001.imgsim" / "encoders").iterdir()
    return directory


def make_collection(path: Path, storage: str = "") -> Path:
    """Make an empty collection with the small encoder of the golden one."""
    Collection.open(path, create=True, storage=storage).close()
    encoder = encoder_directory()
    shutil.copytree(encoder, path / "encoders" / encoder.name)
    catalog = Catalog(path / "catalog.db")
    catalog.add_encoder(encoder.name, read_preprocessing(encoder).dim)
    catalog.close()
    return path


def open_small(path) -> Collection:
    """Open a collection that fits a projection to few images, and writes bounds of few."""
    store = VectorStore(path / "segments", fewest_fitted=20, fewest_bounded=20)
    return Collection(Directory(path, Catalog(path / "catalog.db"), store))


def pytest_collection_finish() -> None:
    """Let no search for unused cycles go through all that pytest and libraries keep."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def usual_seconds() -> Iterator[float]:
    """A few images are one batch, however slow a machine is; return the usual seconds of it."""
    usual = batch._FIRST_SECONDS
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch, "_FIRST_SECONDS", 60.0)
        yield usual


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """A server that gives addresses of empty schemas."""
    if not postgresql.BINARIES.exists():
        pytest.skip(postgresql.MISSING)
    with postgresql.running_server() as server:
        yield server


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> list[str]:
    """Thirty-six photographs that no test may change."""
    return write_crops(tmp_path_factory.mktemp("crops"))


@pytest.fixture
def pictures(tmp_path, crops) -> Path:
    """A folder with copies of the photographs."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in crops:
        shutil.copy2(path, folder)
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    """An empty collection with an encoder of 32x32 pixels to 16 values."""
    return make_collection(tmp_path / "photos.imgsim")


@pytest.fixture
def collection(empty) -> Iterator[Collection]:
    with Collection.open(empty) as opened:
        yield opened


@pytest.fixture
def filled(collection, pictures) -> Collection:
    """A collection that holds the thirty-six photographs."""
    collection.ingest([pictures])
    return collection


@pytest.fixture
def batches(collection, pictures) -> Collection:
    """A collection that holds them in three segments."""
    collection.ingest([pictures], IngestSettings(batch=BatchLimits(images=12)))
    return collection


def alter(path: Path, statement: str) -> None:
    """Run a statement in the catalog of a collection."""
    with closing(sqlite3.connect(path / "catalog.db")) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture(scope="session")
def prepared() -> Iterator[Prepared]:
    """A process that has imported the command."""
    process = Prepared()
    yield process
    process.close()


@pytest.fixture
def imgsim(tmp_path, prepared) -> Run:
    """Run the real command in an empty directory, in a process of its own."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*arguments, **options) -> subprocess.CompletedProcess[bytes]:
        words = [*map(os.fsdecode, arguments)]
        if options.keys() <= {"cwd"}:
            return prepared.run(words, options.get("cwd", work))
        command = [sys.executable, "-m", "imgsim", *words]
        options = {"cwd": work, "capture_output": True, "timeout": 300} | options
        return subprocess.run(command, check=False, **options)

    return run
