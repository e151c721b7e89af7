"""Collections whose catalog is in PostgreSQL, each beside the same with a file."""

import os
import random
import shutil
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from imgsim import (
    BatchLimits,
    Collection,
    CollectionDamaged,
    CollectionError,
    CollectionLocked,
    EncoderSource,
    IngestSettings,
    SearchFilter,
)
from imgsim.catalog.browse import Browse, browse, folders
from imgsim.catalog.postgres import URL_NAME
from imgsim.catalog.schema import METADATA
from imgsim.server.current import Current
from tests.models import write_projection

SMALL = IngestSettings(batch=BatchLimits(images=5))


@pytest.fixture
def model(tmp_path):
    return write_projection(tmp_path / "model.onnx")


def made(path, model, address=None):
    """Make an empty collection with an encoder."""
    collection = Collection.open(path, create=True, catalog=address)
    collection.encoders.add(EncoderSource(model, "first"))
    return collection


@pytest.fixture
def stored(postgres, tmp_path, model, pictures):
    """A collection of the photographs in PostgreSQL."""
    with made(tmp_path / "pg", model, postgres.new_address()) as collection:
        collection.ingest(pictures, SMALL)
        yield collection


def alter(collection, statement):
    with collection._directory.catalog._database.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_models_and_migrations_agree(stored):
    with stored._directory.catalog._database.engine.connect() as connection:
        changes = compare_metadata(MigrationContext.configure(connection), METADATA)
    assert [change[1].name for change in changes] == ["sqlite_sequence"]


def test_it_is_what_a_file_would_be(stored, tmp_path, model, pictures):
    """Whatever is done to both, they say the same."""
    with closing(made(tmp_path / "file", model)) as other:
        other.ingest(pictures, SMALL)
        both = stored, other
        first, second, third, fourth, *_ = sorted(map(str, pictures.iterdir()))
        os.rename(first, pictures / "moved \udcff.jpg")
        shutil.copy(second, pictures / "copy.jpg")
        Path(third).write_text("no picture")
        os.unlink(fourth)
        elsewhere = tmp_path / "elsewhere"
        encoder = write_projection(tmp_path / "second.onnx", dim=7, seed=1)
        for collection in both:
            collection.ingest(pictures, SMALL)
            collection.prune()
            collection.remove(second)
        shutil.move(pictures, elsewhere)
        for collection in both:
            collection.relocate(pictures, elsewhere)
            collection.compact()
            collection.encoders.add(EncoderSource(encoder, "second"))
            collection.encoders.reencode("second")
        query, within = sorted(elsewhere.glob("*-3.jpg"))[0], SearchFilter(under=elsewhere)
        assert stored.query(query, k=9, within=within) == other.query(query, k=9, within=within)
        assert [*stored.images()] == [*other.images()]
        assert len([*stored.images()]) == 34
        facts = [replace(each.info(), path="", disk_bytes=0) for each in both]
        assert facts[0] == facts[1]
        assert stored.check(deep=True) == other.check(deep=True) == []


def test_another_process_sees_what_was_committed(stored, pictures):
    version = stored._directory.catalog.version()
    assert stored._directory.catalog.version() == version
    with Collection.open(stored.path) as other:
        other.remove(sorted(map(str, pictures.iterdir()))[0])
    assert stored._directory.catalog.version() > version
    assert stored.info().images == 35


def test_there_is_one_writer_on_whichever_machine(stored, tmp_path, pictures):
    """Another folder with the same catalog is what another machine is: its own locks."""
    other = tmp_path / "other"
    shutil.copytree(stored.path, other)
    with (
        Collection.open(other) as second,
        stored._directory.writing(),
        pytest.raises(CollectionLocked, match="another process is writing to it, since 20"),
    ):
        second.ingest(pictures)
    with Collection.open(other) as second:
        assert second.ingest(pictures).unchanged == 36


def is_whole(collection, pictures, limits):
    """Ingest, and say whether the server was there until the end; else one line says it."""
    try:
        collection.ingest(pictures, limits)
    except CollectionError as error:
        return "PostgreSQL says: " not in str(error) or "\n" in str(error)
    return True


def test_a_killed_server_costs_what_was_not_committed(postgres, tmp_path, model, pictures):
    """At random moments of an ingest: the collection is sound, and the next ingest goes on."""
    limits = IngestSettings(batch=BatchLimits(images=2))
    with made(tmp_path / "c", model, postgres.new_address()) as collection:
        draw, ended = random.Random(0), 0
        for _ in range(6):
            timer = threading.Timer(draw.uniform(0, 0.3), postgres.kill)
            timer.start()
            ended += not is_whole(collection, pictures, limits)
            timer.join()
            postgres.start()
            assert collection.check() == []
            collection.remove([image.path for image in collection.images()][1:])
        assert ended
        assert collection.ingest(pictures).stored == 36
        assert collection.check(deep=True) == []
        named = len(list((collection.path / "segments").glob("*.faiss")))
        assert named == collection.info().segments


def test_what_was_altered_is_noticed_and_mended(stored):
    alter(stored, "UPDATE encoders SET dim = 9")
    with pytest.raises(CollectionDamaged, match="encoders and segments as stored"):
        stored.info()
    assert stored.check()
    stored.repair()
    assert stored.check(deep=True) == []
    assert stored.info().dim == 5


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql://nobody@/none?host=/nowhere", "PostgreSQL says: .*No such file"),
        ("postgresql://me:secret@host/photos", "PGPASSWORD or ~/.pgpass"),
        ("mysql://me:secret@host/photos", "must begin with postgresql://"),
        ("postgresql://host/photos?password=secret", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://host:port/photos", "no address of a database"),
        ("nonsense", "no address of a database"),
    ],
)
def test_addresses_that_lead_nowhere(tmp_path, address, reason):
    """Nothing is left of the collection."""
    with pytest.raises(CollectionError, match=reason) as caught:
        Collection.open(tmp_path / "c", create=True, catalog=address)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_a_catalog_is_of_one_collection(postgres, tmp_path, model):
    address = postgres.new_address()
    made(tmp_path / "first", model, address).close()
    with pytest.raises(CollectionError, match="another collection's"):
        Collection.open(tmp_path / "second", create=True, catalog=address)
    assert not (tmp_path / "second").exists()


def test_a_writer_that_lost_its_lock_commits_nothing(stored, pictures):
    """Its connection with the lock is ended by the server, and the others go on."""
    directory = stored._directory
    with directory.writing():
        alter(
            stored,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND classid = 6909287 AND objid::bigint = "
            "hashtext(current_schema())::bigint & 4294967295",
        )
        with pytest.raises(CollectionError, match="PostgreSQL says: "):
            directory.catalog.forget([1], (), ())
    assert stored.info().images == 36


def test_a_version_is_known_again_after_a_restart(stored, postgres):
    catalog = stored._directory.catalog
    before = catalog.version()
    postgres.kill()
    with pytest.raises(CollectionError, match="PostgreSQL says: "):
        catalog.version()
    postgres.start()
    assert catalog.version() != before
    assert stored.info().images == 36


def test_a_server_goes_on_after_a_restart(stored, postgres, crops):
    """What it had open of the former server is given up."""
    current = Current(stored._directory)
    with current.searcher() as searcher:
        expected = searcher.search(crops[0], k=3)[0].matches
    postgres.kill()
    with pytest.raises(CollectionError), current.searcher() as searcher:
        searcher.search(crops[0])
    postgres.start()
    with current.searcher() as searcher:
        assert searcher.search(crops[0], k=3)[0].matches == expected
    current.close()


def test_pages_are_those_of_a_file(stored, tmp_path, model, pictures):
    """By suffixes of any letters, by pixels of which there are many, and folders."""
    names = "a.JPG", "b.jpg", "Ü.jpg", "back\\slash.JPG"
    folder = pictures / "ünder"
    folder.mkdir()
    for number, name in enumerate(names):
        shutil.copy(sorted(pictures.glob("*.jpg"))[number], folder / name)
    with closing(made(tmp_path / "file", model)) as other:
        other.ingest(pictures)
        stored.ingest(pictures)
        for suffix in (".jpg", "ü.jpg", "slash.jpg", "\\slash.jpg"):
            pages = [found(each, Browse(suffix=suffix, most=50)) for each in (stored, other)]
            assert pages[0] == pages[1]
        assert found(stored, Browse(suffix="slash.jpg")) != []
        alter(stored, "UPDATE images SET width = 60000, height = 60000 WHERE id = 1")
        with stored._directory.catalog.snapshot() as snapshot:
            assert folders(snapshot, str(pictures)) == ["ünder"]
            with pytest.raises(CollectionDamaged, match="image 1 as it was stored"):
                browse(snapshot, Browse(order="pixels", most=1))


def found(collection, asked):
    with collection._directory.catalog.snapshot() as snapshot:
        return [image.path for image in browse(snapshot, asked).images.values()]


def test_a_collection_keeps_its_catalog(stored, postgres, empty):
    for path in (stored.path, empty):
        with pytest.raises(CollectionError, match="leave out --catalog"):
            Collection.open(path, create=True, catalog=postgres.new_address())


def test_the_command(imgsim, postgres, pictures, model):
    """Its catalog is named once; the folder says where it is."""
    address = postgres.new_address()
    done = imgsim("--catalog", address, "-c", "photos", "encoder", "import", model)
    assert done.returncode == 0, done.stderr
    assert imgsim("-c", "photos", "ingest", pictures).returncode == 0
    first = sorted(map(str, pictures.iterdir()))[0]
    assert imgsim("-c", "photos", "query", first).stdout.splitlines()[2].endswith(first.encode())
    done = imgsim("--catalog", "mysql://host/x", "-c", "other", "encoder", "import", model)
    assert done.returncode == CollectionError.exit_code
    assert done.stderr.count(b"\n") == 1


def test_a_folder_with_such_a_catalog_is_no_folder_of_pictures(stored, pictures):
    assert (stored.path / URL_NAME).exists()
    shutil.copytree(stored.path, pictures / "a-collection")
    shutil.copy(next(pictures.glob("*.jpg")), pictures / "a-collection" / "segments")
    report = stored.ingest(pictures)
    assert (report.unchanged, report.seen) == (36, 36)
