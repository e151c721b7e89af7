import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect

from imgsim.catalog.catalog import Catalog
from imgsim.catalog.damage import altered, damages, wrong_removed
from imgsim.catalog.migrate import SCHEMA, migrate
from imgsim.catalog.postgres import URL_NAME
from imgsim.catalog.schema import METADATA
from imgsim.catalog.sqlite import engine_of
from imgsim.errors import (
    CollectionDamaged,
    CollectionNewer,
    EncoderError,
    EncoderMismatch,
    EncoderMissing,
)
from imgsim.records import ImageFile, ImageRecord, Segment, unpacked
from imgsim.results import Refusal

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def record(path, size=1, mtime_ns=2):
    return ImageRecord(path, size, mtime_ns, b"\0" * 32, 30, 40)


def segment(name, rows):
    return Segment(name, rows, 4, "0" * 64)


def commit(catalog, segment, records):
    """Commit images with the ids that come next."""
    with catalog.snapshot() as snapshot:
        first = snapshot.next_id()
    catalog.commit_batch(segment, dict(enumerate(records, start=first)))


def excluded(rows):
    """The numbers of the rows that do not count."""
    return np.flatnonzero(unpacked(rows.excluded, rows.segment.rows)).tolist()


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(tmp_path, request):
    """A catalog in each database."""
    if request.param == "postgresql":
        address = request.getfixturevalue("postgres").new_address()
        (tmp_path / URL_NAME).write_text(address)
    opened = Catalog(tmp_path / "catalog.db")
    opened.add_encoder("first", 4)
    yield opened
    opened.close()


SQLITE = pytest.mark.parametrize("catalog", ["sqlite"], indirect=True)


class TestSchema:
    def test_the_newest_migration_is_the_schema_of_the_code(self):
        assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [SCHEMA]

    @SQLITE
    def test_models_and_migrations_agree(self, tmp_path, catalog):
        with create_engine(f"sqlite:///{tmp_path}/catalog.db").connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []

    @SQLITE
    def test_a_newer_schema_is_refused_and_left_alone(self, tmp_path, catalog):
        catalog.close()
        path = tmp_path / "catalog.db"
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(CollectionNewer, match="9999"):
            Catalog(path)
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("9999",)]

    @SQLITE
    def test_an_upgrade_that_fails_changes_nothing(self, tmp_path, catalog):
        """Run the real revisions, then one that fails half-way, in one transaction."""
        scripts = tmp_path / "migrations"
        shutil.copytree(MIGRATIONS, scripts)
        (scripts / "versions" / "9999_fails.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            f"revision = '9999'\ndown_revision = '{SCHEMA}'\n"
            "def upgrade():\n"
            "    op.create_table('half', sa.Column('id', sa.Integer))\n"
            "    raise RuntimeError('power cut')\n"
        )
        engine = engine_of(tmp_path / "fresh.db")
        with pytest.raises(RuntimeError, match="power cut"), engine.begin() as connection:
            migrate(connection, scripts)
        with engine.connect() as connection:
            assert inspect(connection).get_table_names() == []

    def test_rows_without_images_are_noted_when_an_old_catalog_is_opened(self, tmp_path):
        """Images and embeddings of a second encoder, some of them gone, under the former schema."""
        path = tmp_path / "catalog.db"
        engine = engine_of(path)
        with engine.begin() as connection:
            migrate(connection, MIGRATIONS, "0003")
        engine.dispose()
        with sqlite3.connect(path) as connection:
            connection.executescript("""
                INSERT INTO encoders VALUES (1, 'first', 4, 1, 0, 'first', 0);
                INSERT INTO encoders VALUES (2, 'second', 4, 0, 0, 'second', 1);
                INSERT INTO segments VALUES (1, 'a', 1, 11, 4, '0', 0), (2, 'b', 2, 3, 4, '0', 0);
                INSERT INTO images VALUES (5, x'61', 1, 2, x'00', 3, 4, 1, 0);
                INSERT INTO images VALUES (7, x'62', 1, 2, x'00', 3, 4, 1, 10);
                INSERT INTO placements VALUES (7, 2, 1);
            """)
        connection.close()
        catalog = Catalog(path)
        with catalog.snapshot() as snapshot:
            (rows,) = snapshot.segment_rows()
            assert excluded(rows) == [*range(1, 10)]
            (spare,) = snapshot.spare_segments()
            assert snapshot.segment_ids(spare).tolist() == [-1, 7, -1]
            assert list(wrong_removed(snapshot)) == []
            assert (snapshot.next_id(), snapshot.count_previous()) == (8, 3)
            assert list(damages(snapshot)) == []
        catalog.close()

    @pytest.mark.parametrize(
        "content", [b"this is no database" * 100, b"SQLite format 3\0" + b"x" * 4096]
    )
    def test_a_file_that_is_no_database(self, tmp_path, content):
        path = tmp_path / "catalog.db"
        path.write_bytes(content)
        with pytest.raises(CollectionDamaged):
            Catalog(path)
        assert path.read_bytes() == content

    @SQLITE
    def test_settings_of_the_connection(self, tmp_path, catalog):
        engine = engine_of(tmp_path / "catalog.db")
        with engine.connect() as connection:
            pragmas = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "foreign_keys", "synchronous")
            ]
        assert pragmas == ["wal", 1, 2]


class TestImages:
    def test_ids_are_never_reused(self, catalog):
        commit(catalog, segment("a", 2), [record("/1"), record("/2")])
        commit(catalog, segment("b", 1), [record("/2", size=9)])
        with catalog.snapshot() as snapshot:
            assert snapshot.paths([1, 2, 3]) == {1: "/1", 3: "/2"}
            assert snapshot.stamps(["/2", "/x"]) == {"/2": (9, 2)}
            assert snapshot.count_images() == 2

    def test_a_replaced_image_leaves_its_row_unused(self, catalog):
        first = segment("a", 2)
        commit(catalog, first, [record("/1"), record("/2")])
        commit(catalog, segment("b", 1), [record("/1")])
        with catalog.snapshot() as snapshot:
            assert snapshot.segment_ids(first).tolist() == [-1, 2]
            assert [excluded(rows) for rows in snapshot.segment_rows()] == [[0], []]

    def test_a_refused_file_that_is_stored_later_is_refused_no_more(self, catalog):
        file = ImageFile("/1", 5, 6, claimed=True)
        catalog.commit_batch(None, {}, refused=[(file, Refusal("/1", "why"))])
        catalog.commit_batch(None, {}, refused=[(file, Refusal("/1", "because"))])
        with catalog.snapshot() as snapshot:
            assert snapshot.refusals(["/1"]) == {"/1": (5, 6, "because")}
            assert snapshot.count_refused() == 1
        commit(catalog, segment("a", 1), [record("/1")])
        with catalog.snapshot() as snapshot:
            assert snapshot.refusals(["/1"]) == {}

    def test_a_snapshot_does_not_see_a_later_commit(self, catalog):
        commit(catalog, segment("a", 1), [record("/1")])
        with catalog.snapshot() as snapshot:
            assert snapshot.count_images() == 1
            commit(catalog, segment("b", 1), [record("/2")])
            assert snapshot.count_images() == 1
            assert [s.name for s in snapshot.segments()] == ["a"]

    def test_a_batch_that_fails_leaves_nothing(self, catalog):
        with pytest.raises(Exception, match=r"(?i)unique"):
            commit(catalog, segment("a", 2), [record("/1"), record("/1")])
        with catalog.snapshot() as snapshot:
            assert snapshot.segments() == []
            assert snapshot.count_images() == 0

    @settings(max_examples=50, deadline=None)
    @given(st.sets(st.binary(min_size=1, max_size=200), min_size=1, max_size=30))
    def test_any_bytes_are_a_path(self, tmp_path_factory, names):
        paths = [os.fsdecode(name) for name in sorted(names)]
        catalog = Catalog(tmp_path_factory.mktemp("paths") / "catalog.db")
        catalog.add_encoder("first", 4)
        commit(catalog, segment("a", len(paths)), [record(path) for path in paths])
        with catalog.snapshot() as snapshot:
            assert list(snapshot.paths(range(1, len(paths) + 1)).values()) == paths
            assert set(snapshot.stamps(paths)) == set(paths)
            assert snapshot.longest_path() == max(map(len, names))
        catalog.close()

    def test_more_paths_than_a_statement_takes_parameters(self, catalog):
        n = 40_000
        commit(catalog, segment("a", n), [record(f"/{i}") for i in range(n)])
        with catalog.snapshot() as snapshot:
            assert len(snapshot.stamps([f"/{i}" for i in range(n)])) == n
            assert len(snapshot.paths(range(n + 1))) == n
            ids = snapshot.segment_ids(segment("a", n))
        assert np.array_equal(ids, np.arange(1, n + 1))


class TestEncoders:
    def test_none_yet(self, tmp_path):
        catalog = Catalog(tmp_path / "new.db")
        with catalog.snapshot() as snapshot, pytest.raises(EncoderMissing):
            snapshot.encoder()
        catalog.close()

    def test_the_first_is_active_and_another_once_there_are_images_is_not(self, catalog):
        commit(catalog, segment("a", 1), [record("/1")])
        added = catalog.add_encoder("second", 8, "mine")
        assert (added.name, added.dim, added.active) == ("mine", 8, False)
        with catalog.snapshot() as snapshot:
            assert snapshot.encoder().fingerprint == "first"
            assert [encoder.name for encoder in snapshot.encoders()] == ["first", "mine"]
            assert snapshot.encoder_named("second") == snapshot.encoder_named("mine") == added
            with pytest.raises(EncoderMissing, match="first, mine"):
                snapshot.encoder_named("third")

    def test_names_are_unique(self, catalog):
        catalog.add_encoder("second", 8, "mine")
        with pytest.raises(EncoderError, match="mine"):
            catalog.add_encoder("third", 8, "mine")
        assert catalog.add_encoder("second", 8, "other").name == "other"
        assert catalog.add_encoder("second", 8).name == "other"

    def test_another_takes_over_when_it_has_a_vector_of_every_image(self, catalog):
        commit(catalog, segment("a", 3), [record(f"/{n}") for n in range(3)])
        second = catalog.add_encoder("second", 4)
        catalog.commit_staged(second, segment("b", 2), [1, 3])
        catalog.commit_staged(second, segment("b", 2), [1, 3])  # once more, to no effect
        with pytest.raises(EncoderMismatch, match="1 images"):
            catalog.use_encoder(second)
        with catalog.snapshot() as snapshot:
            assert list(snapshot.unstaged(second, 0, 10)) == [2]
            assert snapshot.segments() == [segment("a", 3)]
        catalog.commit_staged(second, segment("c", 1), [2])
        catalog.use_encoder(second)
        with catalog.snapshot() as snapshot:
            assert snapshot.encoder().fingerprint == "second"
            assert snapshot.segments() == [segment("b", 2), segment("c", 1)]
            assert snapshot.segment_ids(segment("b", 2)).tolist() == [1, 3]
            assert snapshot.segment_ids(segment("a", 3)).tolist() == [1, 2, 3]  # it may come back
            first = snapshot.encoder_named("first")
            assert snapshot.count_unstaged(first) == 0

    def test_and_back_again(self, catalog):
        commit(catalog, segment("a", 2), [record(f"/{n}") for n in range(2)])
        second = catalog.add_encoder("second", 4)
        catalog.commit_staged(second, segment("b", 2), [1, 2])
        catalog.use_encoder(second)
        with catalog.snapshot() as snapshot:
            first = snapshot.encoder_named("first")
        catalog.use_encoder(first)
        with catalog.snapshot() as snapshot:
            assert snapshot.segments() == [segment("a", 2)]
            assert snapshot.segment_ids(segment("a", 2)).tolist() == [1, 2]

    def test_vectors_of_images_that_go_go_with_them(self, catalog):
        commit(catalog, segment("a", 2), [record(f"/{n}") for n in range(2)])
        second = catalog.add_encoder("second", 4)
        catalog.commit_staged(second, segment("b", 2), [1, 2])
        catalog.forget([1], (), ())
        catalog.commit_staged(second, segment("c", 1), [1])  # it went while it was encoded
        catalog.use_encoder(second)
        with catalog.snapshot() as snapshot:
            assert snapshot.segment_ids(segment("b", 2)).tolist() == [-1, 2]
            assert [excluded(rows) for rows in snapshot.segment_rows()] == [[0], [0]]
            assert list(wrong_removed(snapshot)) == []

    def test_former_vectors_are_forgotten_and_unfinished_ones_are_not(self, catalog):
        commit(catalog, segment("a", 2), [record(f"/{n}") for n in range(2)])
        second, third = (catalog.add_encoder(name, 4) for name in ("second", "third"))
        catalog.commit_staged(second, segment("b", 2), [1, 2])
        catalog.commit_staged(third, segment("c", 1), [1])
        catalog.use_encoder(second)
        catalog.forget_previous()
        with catalog.snapshot() as snapshot:
            assert snapshot.segment_names() == ["b", "c"]
            assert snapshot.count_unstaged(snapshot.encoder_named("first")) == 2
            assert snapshot.count_unstaged(third) == 1


class TestDamages:
    def test_none(self, catalog):
        commit(catalog, segment("a", 1), [record("/1")])
        with catalog.snapshot() as snapshot:
            assert list(damages(snapshot)) == []

    @SQLITE
    def test_an_image_beyond_its_segment(self, tmp_path, catalog):
        commit(catalog, segment("a", 1), [record("/1")])
        with sqlite3.connect(tmp_path / "catalog.db") as connection:
            connection.execute('UPDATE images SET "row" = 7')
        with catalog.snapshot() as snapshot:
            damage, _ = damages(snapshot)
        assert damage.found == "1 images that are not"

    @SQLITE
    def test_a_wrong_note_of_removed_rows(self, tmp_path, catalog):
        commit(catalog, segment("a", 9), [record(f"/{n}") for n in range(9)])
        catalog.forget([3], (), ())
        with sqlite3.connect(tmp_path / "catalog.db") as connection:
            connection.execute("UPDATE segments SET removed = x'0800'")
        with catalog.snapshot() as snapshot:
            (seal,) = damages(snapshot)
            (wrong,) = wrong_removed(snapshot)
        assert seal.expected == "encoders and segments as stored"
        assert wrong[0].name == "a"
        catalog.settle()
        with catalog.snapshot() as snapshot:
            assert list(damages(snapshot)) == []
            assert [excluded(rows) for rows in snapshot.segment_rows()] == [[2]]

    @SQLITE
    @pytest.mark.parametrize(
        "change",
        [
            "path = CAST('/2' AS BLOB)",
            "path = '/1'",  # text, no bytes
            "sha256 = zeroblob(32) || x'00'",
            "sha256 = 'a'",
            "size = size + 1",
            "size = 1.5",
            "width = 31",
            "height = x'00'",
            "damaged = 1",
            "checksum = 0",
            "id = 2",
        ],
    )
    def test_altered_facts_of_an_image(self, tmp_path, catalog, change):
        commit(catalog, segment("a", 1), [record("/1")])
        alter(tmp_path / "catalog.db", f"UPDATE images SET {change}")
        with catalog.snapshot() as snapshot:
            number = int(change == "id = 2") + 1
            with pytest.raises(CollectionDamaged, match=f"image {number} as it was stored"):
                snapshot.paths([number])
            with pytest.raises(CollectionDamaged, match=f"image {number} as it was stored"):
                list(snapshot.listed([]))
            (damage,) = damages(snapshot)
            assert list(altered(snapshot)) == [number]
        assert damage.expected == f"image {number} as it was stored"

    @SQLITE
    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE segments SET rows = 2",
            "UPDATE segments SET name = 'b'",
            "UPDATE segments SET dim = 5",
            "UPDATE segments SET sha256 = '1'",
            "UPDATE segments SET removed = x'01'",
            "UPDATE encoders SET active = 0",
            "UPDATE encoders SET dim = 5",
            "UPDATE encoders SET name = 'other'",
            "UPDATE seals SET checksum = checksum + 1",
            "DELETE FROM seals",
            "DELETE FROM segments",
        ],
    )
    def test_altered_segments_and_encoders(self, tmp_path, catalog, change):
        """Nothing is read by them, nor written over them."""
        commit(catalog, segment("a", 1), [record("/1")])
        alter(tmp_path / "catalog.db", change)
        with catalog.snapshot() as snapshot:
            with pytest.raises(CollectionDamaged, match="encoders and segments as stored"):
                snapshot.verify()
            assert any(found.expected.startswith("encoders and") for found in damages(snapshot))
        with pytest.raises(CollectionDamaged, match="encoders and segments as stored"):
            catalog.forget([1], (), ())

    def test_checksums_follow_every_change(self, catalog):
        commit(catalog, segment("a", 3), [record(f"/a/{n}") for n in range(3)])
        catalog.commit_batch(None, {}, [(1, record("/a/moved", 9, 9)), (2, record("/a/1", 5, 7))])
        catalog.relocate("/a", "/b")
        catalog.forget([3], (), ())
        catalog.commit_merge(["a"], segment("b", 2), [1, 2])
        with catalog.snapshot() as snapshot:
            assert list(damages(snapshot)) == []
            assert snapshot.paths([1, 2]) == {1: "/b/moved", 2: "/b/1"}


def alter(path, statement):
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
