"""What a repair makes of damage to the lists of encoders and segments: nothing is lost."""

import shutil
import sqlite3
from contextlib import closing, suppress

import pytest

from imgsim import (
    Collection,
    CollectionDamaged,
    EncoderMismatch,
    EncoderSource,
    ImgsimError,
    StoreError,
)
from imgsim.catalog import salvage
from imgsim.index.vector_store import VectorStore
from tests.conftest import alter
from tests.jobs.test_ingest import facts
from tests.models import write_projection

CHANGES = [
    "encoders SET fingerprint = 'd' || substr(fingerprint, 2)",
    "encoders SET fingerprint = 'no digits'",
    "encoders SET fingerprint = x'00'",
    "encoders SET fingerprint = CAST(x'66ff' AS TEXT)",
    "encoders SET dim = 17",
    "encoders SET dim = 'text'",
    "encoders SET active = 0",
    "encoders SET active = 2",
    "encoders SET active = 'text'",
    "encoders SET previous = 'text'",
    "encoders SET name = CAST(x'66ff' AS TEXT)",
    "encoders SET id = 7",
    "segments SET encoder_id = 99",
    "segments SET encoder_id = 'text' WHERE id = 2",
    "segments SET name = '0123456789abcdef' WHERE id = 2",
    "segments SET name = 'no digits' WHERE id = 2",
    "segments SET name = CAST(x'66ff' AS TEXT) WHERE id = 2",
    "segments SET rows = -1 WHERE id = 2",
    "segments SET rows = 1000000000000000 WHERE id = 2",
    "segments SET rows = 5 WHERE id = 2",
    "segments SET dim = 1000000000000000 WHERE id = 2",
    "segments SET sha256 = 'text' WHERE id = 2",
    "segments SET removed = 'text' WHERE id = 2",
    "segments SET removed = 3 WHERE id = 2",
    "segments SET removed = x'ffff' WHERE id = 2",
    "segments SET id = 9 WHERE id = 2",
    "seals SET checksum = 0",
    "sqlite_sequence SET seq = 3",
    "sqlite_sequence SET seq = 'text'",
    "sqlite_sequence SET seq = 9223372036854775807",
    "sqlite_sequence SET name = 'other'",
]


def files(path):
    places = (path / "segments").glob("*.faiss"), (path / "encoders").iterdir()
    return sorted(each.name for place in places for each in place)


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_lost(batches, empty, crops, pictures, tmp_path, change):
    """Although the pictures are on a drive that is not plugged in."""
    last = max(batches.images(), key=lambda image: image.id)
    batches.remove([last.path])
    before, kept = facts(batches), files(empty)
    answer = batches.query(crops[:3], None).results
    away = pictures.rename(tmp_path / "away")
    alter(empty, f"UPDATE {change}")
    for use in (lambda: batches.query(crops[0]), lambda: batches.ingest([away]), batches.compact):
        with pytest.raises(CollectionDamaged, match="encoders and segments as stored"):
            use()
    assert batches.check()
    report = batches.repair()
    assert (report.encoded, report.forgotten, report.kept) == (0, (), ())
    assert (batches.check(), facts(batches), files(empty)) == ([], before, kept)
    assert batches.query(crops[:3], None).results == answer
    away.rename(pictures)
    assert batches.ingest([pictures]).added == 1
    assert max(image.id for image in batches.images()) == last.id + 1
    assert batches.check() == []


def test_a_segment_that_is_lost_too_is_encoded_again(batches, empty):
    """Nothing says how many rows it has but the images."""
    before = facts(batches)
    sorted((empty / "segments").glob("*.faiss"))[0].unlink()
    alter(empty, "UPDATE segments SET name = 'text' || id, rows = -5, dim = 'text', sha256 = id")
    report = batches.repair()
    assert (report.encoded, report.forgotten) == (36, ())
    assert (batches.check(), facts(batches)) == ([], before)


@pytest.mark.parametrize("what", ["encoders", "segments"])
def test_nothing_is_swept_while_what_a_row_names_is_missing(batches, empty, pictures, what):
    """What no row names may be it."""
    missing = sorted((empty / what).glob("*.faiss" if what == "segments" else "*"))[0]
    other = "0123456789abcdef.faiss" if what == "segments" else 64 * "0"
    missing.rename(missing.with_name(other))
    with suppress(ImgsimError):
        batches.ingest([pictures])
    assert (empty / what / other).exists()
    batches.check()
    with suppress(ImgsimError):
        batches.repair()
    assert (empty / what / other).exists() == (what == "encoders")  # segments are encoded again


@pytest.fixture
def two(batches, empty, tmp_path):
    """The same with embeddings by another encoder of as many values, which is not active."""
    (first,) = batches.encoders.list()
    source = EncoderSource(write_projection(tmp_path / "other.onnx", dim=first.dim), name="other")
    batches.encoders.add(source)
    batches.encoders.reencode("other")
    batches.encoders.use(first.name)
    return batches


@pytest.mark.parametrize(
    "change",
    [
        "segments SET encoder_id = 2 WHERE id = 2",
        "segments SET encoder_id = 1 WHERE id = 4",
        "encoders SET active = 2 WHERE id = 2",
        "encoders SET active = NOT active",
        "encoders SET dim = 5 WHERE id = 2",
        "encoders SET fingerprint = 'text' WHERE id = 2",
        "encoders SET id = 8 WHERE id = 2",
    ],
)
def test_encoders_never_meet(two, empty, crops, change):
    before, answer = facts(two), two.query(crops[:3], None).results
    alter(empty, f"UPDATE {change}")
    assert two.check()
    assert two.repair().forgotten == ()
    assert (two.check(), facts(two)) == ([], before)
    assert two.query(crops[:3], None).results == answer
    two.encoders.use("other")
    assert facts(two) != before


def test_one_wrong_value_does_not_decide_which_encoder_is_active(filled, empty, crops, tmp_path):
    """Here all images are in one segment, which names the other encoder."""
    (first,) = filled.encoders.list()
    source = EncoderSource(write_projection(tmp_path / "other.onnx", dim=first.dim), name="other")
    filled.encoders.add(source)
    answer = filled.query(crops[:3], None).results
    alter(empty, "UPDATE segments SET encoder_id = 2")
    assert filled.repair().forgotten == ()
    assert (filled.check(), filled.info().encoder) == ([], first.name)
    assert filled.query(crops[:3], None).results == answer


@pytest.mark.parametrize(
    "change",
    [
        "row = (row + 1) % 12 WHERE image_id = 6",
        "row = -2 WHERE image_id = 6",
        "row = 'text' WHERE image_id = 6",
        "segment_id = 1 WHERE image_id = 6",
        "image_id = 'text' WHERE image_id = 6",
    ],
)
def test_embeddings_that_are_no_image_s_never_take_over(two, empty, change):
    alter(empty, "DELETE FROM staged WHERE image_id = 7")
    alter(empty, f"UPDATE staged SET {change}")
    with pytest.raises(EncoderMismatch, match="2 images have no embedding"):
        two.encoders.use("other")
    two.encoders.reencode("other")
    assert two.check() == []


class TestRebuilt:
    """A catalog whose file is damaged, which is made anew."""

    @staticmethod
    def spoil(path):
        content = path.read_bytes()
        path.write_bytes(b"x" + content[1:])

    def test_without_the_list_of_encoders(self, two, empty, crops):
        before, answer = facts(two), two.query(crops[:3], None).results
        name = next(each.fingerprint for each in two.encoders.list() if each.active)[:12]
        two.close()
        alter(empty, "DELETE FROM encoders")
        self.spoil(empty / "catalog.db")
        done = Collection.mend(empty)
        assert "the 36 images that could be read" in done
        assert f"its encoder is {name}" in done
        with Collection.open(empty) as collection:
            collection.repair()
            assert (collection.check(), facts(collection)) == ([], before)
            assert collection.query(crops[:3], None).results == answer
            assert len(collection.encoders.list()) == 2

    def test_two_images_in_one_row(self, batches, empty):
        """The one that was altered may come first."""
        before = facts(batches)
        batches.close()
        with closing(sqlite3.connect(empty / "catalog.db")) as connection:
            connection.executescript(
                "CREATE TABLE other AS SELECT * FROM images; DROP TABLE images;"
                "ALTER TABLE other RENAME TO images; UPDATE images SET row = 8 WHERE id = 6;"
                "UPDATE images SET row = 3 WHERE id = 7;"
            )
        self.spoil(empty / "catalog.db")
        assert "the 36 images that could be read" in Collection.mend(empty)
        with Collection.open(empty) as collection:
            assert collection.repair().forgotten == ()
            assert (collection.check(), facts(collection)) == ([], before)

    def test_ids_are_not_used_again_although_no_image_could_be_read(self, batches, empty, pictures):
        batches.close()
        alter(empty, "DELETE FROM images")
        self.spoil(empty / "catalog.db")
        Collection.mend(empty)
        with Collection.open(empty) as collection:
            collection.repair()
            assert collection.ingest([pictures]).added == 36
            assert min(image.id for image in collection.images()) == 37

    def test_a_failure_leaves_what_was_there(self, batches, empty, monkeypatch):
        batches.close()
        self.spoil(empty / "catalog.db")
        before = sorted(empty.iterdir())

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(salvage, "restore", full)
        for _ in range(2):
            with pytest.raises(StoreError, match="No space left"):
                Collection.mend(empty)
        assert sorted(empty.iterdir()) == before


def test_what_a_killed_repair_left_is_swept(batches, empty, pictures):
    left = [
        *(f".catalog.db.0123abcd.tmp{end}" for end in ("", "-wal", "-shm")),
        ".catalog.db.damaged-1-wal.0123abcd.tmp",
        "segments/0123456789abcdef.ids.npy",
    ]
    stays = ["catalog.db.damaged-1", ".catalog.db.tmp", ".mine.0123abcd.tmp"]
    for name in (*left, *stays):
        (empty / name).write_bytes(b"x")
    batches.ingest([pictures])
    assert not any((empty / name).exists() for name in left)
    assert all((empty / name).exists() for name in stays)


def test_nothing_is_noted_in_a_damaged_catalog(batches, empty, pictures, tmp_path):
    alter(empty, "UPDATE segments SET rows = 11")
    away = pictures.rename(tmp_path / "away")
    with pytest.raises(CollectionDamaged, match="encoders and segments as stored"):
        batches.relocate(pictures, away)


def test_an_ingest_makes_tables_before_it_needs_them(batches, empty, pictures, monkeypatch):
    """Each copy of a stored image would read the whole segment."""
    for path in (empty / "segments").glob("*.rows.npy"):
        path.unlink()
    for number, path in enumerate(sorted(pictures.iterdir())[:9]):
        shutil.copy(path, pictures / f"copy-{number}.jpg")
    made = []
    refuse = VectorStore._refuse_damage
    monkeypatch.setattr(
        VectorStore, "_refuse_damage", lambda *given: made.append(given) or refuse(*given)
    )
    assert batches.ingest([pictures]).added == 9
    assert made == []
