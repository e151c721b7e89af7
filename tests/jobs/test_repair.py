"""What check finds, and repair mends: here files are damaged on purpose."""

import os
import shutil
import sqlite3

import numpy as np
import pytest

from imgsim import BatchLimits, IngestSettings
from tests.conftest import open_small
from tests.jobs.test_ingest import facts


@pytest.fixture
def batches(collection, pictures):
    """Thirty-six images in three segments."""
    collection.ingest([pictures], IngestSettings(batch=BatchLimits(images=12)))
    return collection


def segments(path):
    return sorted((path / "segments").glob("*.faiss"))


@pytest.mark.parametrize("damage", ["gone", "cut", "altered", "folder"])
def test_a_lost_segment_is_encoded_again(batches, empty, damage):
    before = facts(batches)
    path = segments(empty)[1]
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        content[-9] ^= 1
        path.write_bytes(content[:-4] if damage == "cut" else content)
    assert [found.path for found in batches.check()] == [str(path)]
    report = batches.repair()
    assert (report.encoded, report.forgotten) == (12, ())
    assert batches.check() == []
    assert facts(batches) == before
    assert [n.id for n in batches.neighbours(1)] == [*range(1, 37)]


def test_what_cannot_be_encoded_again_is_forgotten(batches, empty, pictures):
    before = facts(batches)
    first, second, *_ = sorted(pictures.iterdir())
    first.unlink()
    shutil.copyfile(sorted(pictures.iterdir())[-1], second)
    for path in segments(empty):
        path.unlink()
    report = batches.repair()
    assert (report.encoded, set(report.forgotten)) == (34, {str(first), str(second)})
    assert batches.check() == []
    del before[str(first)], before[str(second)]
    assert facts(batches) == before
    assert batches.info().images == 34


def test_an_image_in_no_row_is_forgotten(batches, empty, pictures):
    """A catalog that points beyond a segment still answers."""
    path = str(sorted(pictures.iterdir())[0])
    with sqlite3.connect(empty / "catalog.db") as connection:
        connection.execute("UPDATE images SET row = 99 WHERE id = 1")
    connection.close()
    assert len(facts(batches)) == 36
    assert len(batches.check()) == 2
    assert batches.repair().forgotten == (path,)
    assert batches.check() == []
    assert batches.ingest([pictures]).added == 1


def test_deep_finds_content_that_changed_without_a_trace(batches, pictures):
    first, second, third, fourth, *_ = sorted(pictures.iterdir())
    for path, content in ((first, first.read_bytes()[:-2] + b"xx"), (second, b"x" * 99)):
        stamp = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    os.utime(third, ns=(0, 0))
    fourth.unlink()
    assert batches.check() == []
    assert [damage.path for damage in batches.check(deep=True)] == [str(first), str(second)]


def test_what_cannot_be_reached_is_kept(batches, empty, pictures, tmp_path):
    """A drive that is not plugged in costs no image; nor does a file that is locked away."""
    before = facts(batches)
    flipped, lost, _ = segments(empty)
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    away = pictures.rename(tmp_path / "away")
    report = batches.repair()
    assert (report.encoded, report.forgotten, len(report.kept)) == (0, (), 12)
    assert batches.info().images == len(before)
    lost.unlink()
    away.rename(pictures)
    assert batches.repair().encoded == 24
    assert batches.check() == []
    assert facts(batches) == before


def test_a_segment_that_the_catalog_lost(batches, empty, pictures):
    with sqlite3.connect(empty / "catalog.db") as connection:
        connection.execute("DELETE FROM segments WHERE id = 2")
    connection.close()
    seal, damage = batches.check()
    assert seal.expected == "encoders and segments as stored"
    assert damage.found == "12 images that are not"
    assert len(batches.repair().forgotten) == 12
    assert batches.check() == []
    assert batches.ingest([pictures]).added == 12


def test_bounds_are_mended_without_an_encoder(batches, empty):
    """Nothing needs to be encoded."""
    (encoder,) = (empty / "encoders").iterdir()
    shutil.rmtree(encoder)
    (empty / "segments" / "basis.npz").write_bytes(b"no basis")
    assert batches.repair().bounds == 1
    assert not (empty / "segments" / "basis.npz").exists()  # there are too few vectors for one


def test_a_lost_segment_whose_pictures_are_away_is_reported(empty, pictures, tmp_path):
    """It can have no bounds either."""
    with open_small(empty) as collection:
        collection.ingest([pictures])
        segments(empty)[0].unlink()
        pictures.rename(tmp_path / "away")
        report = collection.repair()
        assert (report.encoded, len(report.kept)) == (0, 36)
        assert len(collection.check()) == 1


def test_an_open_searcher_outlives_the_repair_of_ids(filled, empty, crops):
    (path,) = (empty / "segments").glob("*.rows.npy")
    table = np.load(path)
    altered = table.copy()
    altered["id"] += 1_000
    with filled.searcher() as searcher:
        np.save(path, altered)
        filled.repair()
        assert np.array_equal(np.load(path), table)
        assert searcher.search(crops[0], 1)[0].matches[0].id == 1
