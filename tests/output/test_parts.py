"""Neighbour lists in a folder of Parquet files, and exports that go on where one was cut off."""

import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from imgsim import OutputError, SearchFilter, StoreError
from imgsim.jobs import rows

IMAGES = 36
KILLED = """
import os, signal, sys
from imgsim import Collection
from imgsim.jobs import rows

rows._PART = 12
with Collection.open(sys.argv[1]) as collection:
    stop = lambda done, _: done == 30 and os.kill(os.getpid(), signal.SIGKILL)
    collection.export_neighbours(sys.argv[2], 3, on_progress=stop)
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(rows, "_PART", 12)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "neighbours"


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".neighbours.lock")


def read(folder):
    return pq.read_table(folder)


def numbers_asked(collection, folder, k=3, within=None):
    """Return the number of rows, and which images were searched for, by their place."""
    seen = []
    count = collection.export_neighbours(folder, k, within, lambda done, _: seen.append(done))
    return count, seen


def test_the_parts_are_the_lists_in_order(batches, folder, tmp_path):
    assert numbers_asked(batches, folder) == (3 * IMAGES, [*range(1, IMAGES + 1)])
    batches.export_neighbours(tmp_path / "n.parquet", 3)
    assert read(folder).equals(pq.read_table(tmp_path / "n.parquet"))
    assert [name[-14:] for name in names(folder)] == [f"-0000{i}.parquet" for i in range(3)]


def test_nothing_is_done_twice(batches, folder):
    numbers_asked(batches, folder)
    before = names(folder)
    assert numbers_asked(batches, folder) == (3 * IMAGES, [])
    assert names(folder) == before


def test_an_export_that_is_killed_goes_on(batches, folder, tmp_path):
    batches.export_neighbours(tmp_path / "whole.parquet", 3)
    command = [sys.executable, "-c", KILLED, str(batches.path), str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert all(name.startswith(".") for name in names(folder))
    assert numbers_asked(batches, folder) == (3 * IMAGES, [*range(25, IMAGES + 1)])
    assert read(folder).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert [name[-14:] for name in names(folder)] == [f"-0000{i}.parquet" for i in range(3)]


def test_one_that_was_killed_among_its_last_steps_goes_on(batches, folder):
    numbers_asked(batches, folder)
    whole, last = read(folder), folder / names(folder)[-1]
    last.rename(folder / f".{last.name}")
    assert numbers_asked(batches, folder) == (3 * IMAGES, [])
    assert read(folder).equals(whole)


@pytest.mark.parametrize("change", ["k", "radius", "under", "distinct", "path", "removed", "added"])
def test_what_depends_on_another_state_is_replaced(batches, folder, pictures, crops, change):
    numbers_asked(batches, folder)
    (folder / "_notes.txt").write_text("mine")
    before = read(folder)
    k, within = 3, SearchFilter()
    if change == "k":
        k = 4
    elif change == "radius":
        within = SearchFilter(float(before["distance"].to_numpy().max()) / 2)
    elif change == "under":
        within = SearchFilter(under=(str(pictures / "gone"),))
    elif change == "distinct":
        within = SearchFilter(distinct=True)
    elif change == "path":
        pictures.rename(pictures.with_name("moved"))
        batches.relocate(str(pictures), str(pictures.with_name("moved")))
    elif change == "removed":
        batches.remove([sorted(pictures.iterdir())[0]])
    else:
        batches.ingest(crops[:1])
    _, asked = numbers_asked(batches, folder, k, within)
    assert asked[0] == 1
    assert read(folder).num_rows == sum(len(each.matches) for each in batches.neighbours(k, within))
    assert (folder / "_notes.txt").read_text() == "mine"
    assert len({name.split("-")[1] for name in names(folder) if "-" in name}) == 1


def test_a_part_that_is_no_parquet_is_named(batches, folder):
    numbers_asked(batches, folder)
    first = folder / names(folder)[0]
    sound = first.read_bytes()
    first.write_bytes(sound[:-100] + bytes(92) + sound[-8:])
    with pytest.raises(StoreError, match=f"{first.name}: is not Parquet; remove it"):
        numbers_asked(batches, folder)
    first.write_bytes(sound[:-8])
    with pytest.raises(StoreError, match=f"{first.name}: is not Parquet; remove it"):
        numbers_asked(batches, folder)
    first.unlink()
    assert numbers_asked(batches, folder) == (3 * IMAGES, [*range(1, 13)])


def test_two_exports_do_not_write_to_one_folder(batches, folder):
    """The second would remove what the first has, or the first what the second has."""
    done = []

    def meddle(count, _):
        if count == 20:
            with pytest.raises(OutputError, match="another export is writing to it"):
                batches.export_neighbours(folder, 4)
            done.append(count)

    assert batches.export_neighbours(folder, 3, on_progress=meddle) == 3 * IMAGES
    assert done
    assert batches.export_neighbours(folder, 4) == read(folder).num_rows == 4 * IMAGES


def test_a_part_that_somebody_removes_meanwhile_is_missed(batches, folder):
    def remove(count, _):
        if count == 20:
            next(folder.glob(".neighbours-*.parquet")).unlink()

    batches.export_neighbours(folder, 4)
    before = read(folder)
    with pytest.raises(StoreError, match="No such file"):
        batches.export_neighbours(folder, 3, on_progress=remove)
    assert read(folder).equals(before)
    assert numbers_asked(batches, folder) == (3 * IMAGES, [*range(1, 13)])


def test_an_empty_collection(collection, folder):
    assert numbers_asked(collection, folder) == (0, [])
    assert names(folder) == []


def test_names_that_cannot_be_folders(batches, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a folder"):
        batches.export_neighbours(tmp_path / "file")
    with pytest.raises(OutputError, match="there is no folder"):
        batches.export_neighbours(tmp_path / "gone" / "n")
    assert (tmp_path / "file").read_text() == "mine"
