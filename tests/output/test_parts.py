"""Neighbour lists as Parquet files, and exports that go on where one was cut off."""

import io
import re
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgsim import OutputError, SearchFilter, StoreError
from imgsim.bucket import Bucket
from imgsim.jobs import parts
from imgsim.output import part_files
from tests import s3

IMAGES = 36
KILLED = """
import os, signal, sys
from imgsim import Collection
from imgsim.bucket import Bucket
from imgsim.jobs import parts

parts._PART = 12
with Collection.open(sys.argv[1]) as collection:
    stop = lambda done, _: done == 30 and os.kill(os.getpid(), signal.SIGKILL)
    collection.export_neighbours(sys.argv[2], 3, on_progress=stop)
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "_PART", 12)


class Folder:
    """What an export has written to a folder, which is called ``where``."""

    def __init__(self, path, where):
        self.path, self.where = path, where

    def all_names(self):
        return [path.name for path in self.path.iterdir()]

    def content(self, name):
        return (self.path / name).read_bytes()

    def put(self, name, content):
        self.path.mkdir(exist_ok=True)
        (self.path / name).write_bytes(content)

    def remove(self, name):
        (self.path / name).unlink()

    def names(self):
        return sorted(name for name in self.all_names() if name != ".neighbours.lock")

    def read(self):
        shown = [name for name in self.names() if name.startswith("neighbours")]
        return pa.concat_tables(pq.read_table(io.BytesIO(self.content(name))) for name in shown)


class Objects(Folder):
    """What an export has written to a bucket of S3."""

    def __init__(self, server, where):
        super().__init__(None, where)
        self.client, self.prefix = server.client, urlsplit(where).path.lstrip("/") + "/"

    def all_names(self):
        found = self.client.list_objects_v2(Bucket="photos", Prefix=self.prefix)
        names = (each["Key"].removeprefix(self.prefix) for each in found.get("Contents", ()))
        return [name for name in names if name]

    def content(self, name):
        return self.client.get_object(Bucket="photos", Key=self.prefix + name)["Body"].read()

    def put(self, name, content):
        self.client.put_object(Bucket="photos", Key=self.prefix + name, Body=content)

    def remove(self, name):
        self.client.delete_object(Bucket="photos", Key=self.prefix + name)


@pytest.fixture(scope="module")
def server():
    with s3.running_server() as running:
        yield running


@pytest.fixture(params=["folder", "file", "s3"])
def target(request, tmp_path, server):
    path = tmp_path / "neighbours"
    server.left = None
    if request.param == "s3":
        return Objects(server, server.url(tmp_path.name))
    return Folder(path, str(path) if request.param == "folder" else f"file://{path}")


def numbers_asked(collection, target, k=3, within=None):
    """Return the number of rows, and which images were searched for, by their place."""
    seen = []
    count = collection.export_neighbours(target.where, k, within, lambda done, _: seen.append(done))
    return count, seen


def test_the_parts_are_the_lists_in_order(batches, target, tmp_path):
    assert numbers_asked(batches, target) == (3 * IMAGES, [*range(1, IMAGES + 1)])
    batches.export_neighbours(tmp_path / "n.parquet", 3)
    assert target.read().equals(pq.read_table(tmp_path / "n.parquet"))
    assert [name[-14:] for name in target.names()] == [f"-0000{i}.parquet" for i in range(3)]
    if target.path:
        assert pq.read_table(target.path).equals(target.read())  # Arrow reads no other file there


def test_nothing_is_done_twice(batches, target):
    numbers_asked(batches, target)
    before = target.names()
    assert numbers_asked(batches, target) == (3 * IMAGES, [])
    assert target.names() == before


def test_an_export_that_is_killed_goes_on(batches, target, tmp_path):
    batches.export_neighbours(tmp_path / "whole.parquet", 3)
    command = [sys.executable, "-c", KILLED, str(batches.path), target.where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert all(name.startswith(".") for name in target.names())
    assert numbers_asked(batches, target) == (3 * IMAGES, [*range(25, IMAGES + 1)])
    assert target.read().equals(pq.read_table(tmp_path / "whole.parquet"))
    assert [name[-14:] for name in target.names()] == [f"-0000{i}.parquet" for i in range(3)]


def test_one_that_was_killed_among_its_last_steps_goes_on(batches, target):
    numbers_asked(batches, target)
    whole, (_, other, last) = target.read(), target.names()
    for name in (other, last):
        target.put(f".{name}", target.content(name))
    target.remove(last)  # and the other was copied, but not removed
    assert numbers_asked(batches, target) == (3 * IMAGES, [])
    assert target.read().equals(whole)
    assert not any(name.startswith(".") for name in target.names())


@pytest.mark.parametrize("change", ["k", "radius", "under", "distinct", "path", "removed", "added"])
def test_what_depends_on_another_state_is_replaced(batches, target, pictures, crops, change):
    numbers_asked(batches, target)
    target.put("_notes.txt", b"mine")
    before = target.read()
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
    _, asked = numbers_asked(batches, target, k, within)
    assert asked[0] == 1
    assert target.read().num_rows == sum(
        len(each.matches) for each in batches.neighbours(k, within)
    )
    assert target.content("_notes.txt") == b"mine"
    assert len({name.split("-")[1] for name in target.names() if "-" in name}) == 1


def test_a_part_that_is_no_parquet_is_named(batches, target):
    numbers_asked(batches, target)
    first = target.names()[0]
    sound = target.content(first)
    for content in (sound[:-100] + bytes(92) + sound[-8:], sound[:-8], b""):
        target.put(first, content)
        with pytest.raises(StoreError, match=f"/{first}: is not Parquet; remove it"):
            numbers_asked(batches, target)
    target.remove(first)
    assert numbers_asked(batches, target) == (3 * IMAGES, [*range(1, 13)])


def test_a_footer_of_any_length_is_read(batches, target, monkeypatch):
    """As one of very many row groups."""
    monkeypatch.setattr(part_files, "_TAIL", 16)
    assert numbers_asked(batches, target)[0] == 3 * IMAGES
    assert numbers_asked(batches, target) == (3 * IMAGES, [])


def test_what_a_killed_export_has_not_finished_goes(batches, target):
    target.put("..neighbours-0123456789abcdef-00000.parquet.01234567.tmp", b"half")
    numbers_asked(batches, target)
    assert len(target.names()) == 3


def test_two_exports_do_not_write_to_one_folder(batches, tmp_path):
    """The second would remove what the first has, or the first what the second has."""
    done, folder = [], tmp_path / "neighbours"

    def meddle(count, _):
        if count == 20:
            with pytest.raises(OutputError, match="another export is writing to it"):
                batches.export_neighbours(folder, 4)
            done.append(count)

    assert batches.export_neighbours(folder, 3, on_progress=meddle) == 3 * IMAGES
    assert done
    assert batches.export_neighbours(folder, 4) == pq.read_table(folder).num_rows == 4 * IMAGES


def test_a_part_that_somebody_removes_meanwhile_is_missed(batches, target):
    """In a bucket, that may be another export."""

    def remove(count, _):
        if count == 20:
            target.remove(next(name for name in target.names() if name.startswith(".n")))

    numbers_asked(batches, target, 4)
    before = target.read()
    with pytest.raises(StoreError, match=r"\.parquet: was removed meanwhile; export again"):
        batches.export_neighbours(target.where, 3, on_progress=remove)
    assert target.read().equals(before)
    assert numbers_asked(batches, target) == (3 * IMAGES, [*range(1, 13)])


def test_a_connection_that_is_cut(batches, server, tmp_path):
    """While a part is sent, or before: one line, and what was there stays."""
    target = Objects(server, server.url(tmp_path.name))
    numbers_asked(batches, target, 4)
    before = target.read()
    for left in (0, 6_000):
        server.left = left
        with pytest.raises(StoreError, match=r"^s3://photos/[^\n]*$"):
            batches.export_neighbours(target.where, 3)
        server.left = None
        assert target.read().equals(before)
    assert numbers_asked(batches, target)[0] == target.read().num_rows == 3 * IMAGES


@pytest.mark.parametrize("target", ["file", "s3"], indirect=True)
def test_the_bucket_of_a_collection_is_refused(batches, target, tmp_path):
    """What no segment needs is removed there."""
    Bucket.claimed(target.where, tmp_path)
    with pytest.raises(StoreError, match="belongs to a collection; nothing is changed"):
        batches.export_neighbours(target.where)
    assert target.names() == ["imgsim.owner"]


def test_a_folder_whose_mount_is_away(batches, tmp_path):
    """Or whose name is mistyped: nothing is made on another disk."""
    with pytest.raises(StoreError, match=f"there is no folder {tmp_path}/mnt"):
        batches.export_neighbours(f"file://{tmp_path}/mnt/lists")
    assert not (tmp_path / "mnt").exists()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("s3://key:secret@photos/mine", "keep credentials out of it"),
        ("s3://photos/mine?access_key=a&secret_key=b", r"out of it.*\(access_key, secret_key\)"),
        ("s4://photos/mine", "Unrecognized filesystem"),
        ("s3://", "must be like s3://bucket/name"),
        ("s3://photos/mine.parquet?region=us-east-1", "^s3://photos/mine.parquet: several files"),
    ],
)
def test_addresses_that_are_none(batches, where, said):
    with pytest.raises(OutputError, match=said) as raised:
        batches.export_neighbours(where)
    assert not re.search("secret@|=[ab]", str(raised.value))


def test_an_empty_collection(collection, target):
    assert numbers_asked(collection, target) == (0, [])
    assert target.names() == []


def test_names_that_cannot_be_folders(batches, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a folder"):
        batches.export_neighbours(tmp_path / "file")
    with pytest.raises(OutputError, match="there is no folder"):
        batches.export_neighbours(tmp_path / "gone" / "n")
    assert (tmp_path / "file").read_text() == "mine"
