"""What check finds, and repair mends: here files are damaged on purpose."""

import os
import shutil
import sqlite3

import numpy as np
import pytest

from imgsim import CollectionDamaged
from tests.conftest import alter, open_small
from tests.jobs.test_ingest import facts


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


@pytest.mark.parametrize("row", [99, -3, -123, "'text'", 1.5, 10**18])
def test_an_image_in_no_row_is_forgotten(batches, empty, pictures, row):
    """Here no table says where it is."""
    path = str(sorted(pictures.iterdir())[0])
    for table in (empty / "segments").glob("*.rows.npy"):
        table.unlink()
    alter(empty, f"UPDATE images SET row = {row} WHERE id = 1")
    with pytest.raises(CollectionDamaged, match="image 1 in a row"), batches.searcher() as searcher:
        searcher.search_ids([1])
    assert len(batches.check()) == 2
    assert batches.repair().forgotten == (path,)
    assert batches.check() == []
    assert batches.ingest([pictures]).added == 1
    assert len(batches.query(pictures / "astronaut-0.jpg", None)[0].matches) == 36


@pytest.mark.parametrize(
    "change",
    [
        *(f"row = {row} WHERE id = 6" for row in (99, -3, 1.5, "'text'", 0)),
        "segment_id = 9 WHERE id = 6",
        "segment_id = 'text' WHERE id = 6",
        "row = 11 - row - 24 * (row < 6)",
    ],
)
def test_the_tables_know_whose_a_row_is(batches, empty, pictures, change):
    """The catalog has no checksum of that; row 0 was that of an image that is no more."""
    first, sixth = sorted(pictures.iterdir())[0], sorted(pictures.iterdir())[5]
    batches.remove([first])
    before = facts(batches)
    answer = batches.query(sixth, None).results
    alter(empty, f"UPDATE images SET {change}")
    assert batches.check()
    assert batches.repair().forgotten == ()
    assert batches.check() == []
    assert facts(batches) == before
    assert batches.query(sixth, None).results == answer
    assert [len(list(batches.neighbours(None))), batches.compact().after] == [35, 1]


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
