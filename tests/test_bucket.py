"""Collections whose segments are in a bucket of an object store, and what can happen to it."""

import hashlib
import io
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsim import (
    BatchLimits,
    Collection,
    CollectionDamaged,
    CollectionError,
    IngestSettings,
    StoreError,
)
from imgsim.bucket import Bucket
from imgsim.index.vector_store import VectorStore
from imgsim.records import SegmentRows
from tests import s3
from tests.conftest import make_collection


@pytest.fixture(scope="module")
def server():
    with s3.running_server() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path, server):
    """The address of an empty folder of a bucket, or one that is a folder of this machine."""
    server.left = None
    return f"file://{tmp_path}/bucket" if request.param == "file" else server.url(tmp_path.name)


@pytest.fixture
def bucket(url, tmp_path):
    return Bucket.claimed(url, tmp_path)


def forget_copies(path):
    for each in (path / "segments").iterdir():
        each.unlink()


def found(path, crops):
    with Collection.open(path) as collection:
        results = collection.query(crops[:4], k=5)
        return [(match.path, match.distance) for each in results for match in each.matches]


def test_a_bucket_keeps_whole_files(bucket, tmp_path):
    content = np.random.default_rng(0).bytes(9 << 20)
    (tmp_path / "a.faiss").write_bytes(content)
    (tmp_path / "b.faiss").write_bytes(b"")
    for name in ("a.faiss", "b.faiss"):
        bucket.put(tmp_path / name)
        (tmp_path / name).unlink()
    assert bucket.names() == {"a.faiss", "b.faiss"}
    bucket.get(tmp_path / "a.faiss", hashlib.sha256(content).hexdigest())
    bucket.get(tmp_path / "b.faiss")
    assert (tmp_path / "a.faiss").read_bytes() == content
    assert (tmp_path / "b.faiss").read_bytes() == b""
    bucket.get(tmp_path / "none.faiss")
    assert not (tmp_path / "none.faiss").exists()
    for _ in range(2):
        bucket.remove("a.faiss")
    assert bucket.names() == {"b.faiss"}
    with pytest.raises(StoreError, match="is not empty"):
        Bucket.claimed(bucket.url, tmp_path)
    other = replace(bucket, owner="another")
    with pytest.raises(StoreError, match="belongs to another collection"):
        other.names()


def test_another_content_is_not_kept(bucket, tmp_path):
    target = tmp_path / "a.faiss"
    target.write_bytes(b"altered")
    bucket.put(target)
    target.unlink()
    with pytest.raises(CollectionDamaged, match="expected sha256 00"):
        bucket.get(target, "0" * 64)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["segments.url"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("photos", "must be like s3://bucket/name"),
        ("s3://", "must be like s3://bucket/name"),
        ("s3://key:secret@photos/mine", "keep credentials out"),
        ("s3://photos/mine?access_key=a&secret_key=b", "keep credentials out"),
        ("abfs://c@a.dfs.core.windows.net/x?client_secret=s", "keep credentials out"),
        ("s4://photos/mine", "Unrecognized filesystem"),
    ],
)
def test_addresses_that_are_none(tmp_path, address, said):
    with pytest.raises(CollectionError, match=said):
        Collection.open(tmp_path / "c", create=True, storage=address)
    assert not (tmp_path / "c").exists()


def test_a_bucket_that_is_not_there(tmp_path, server):
    server.left = None
    url = server.url("x").replace("//photos", "//none")
    with pytest.raises(StoreError, match=r"s3://none/x/?: Bucket 'none' not found$"):
        Collection.open(tmp_path / "c", create=True, storage=url)
    assert not (tmp_path / "c").exists()


def test_a_collection_needs_no_copies(url, tmp_path, crops, empty):
    """The answers are those of one in a folder, from whatever copies there are; nobody else's."""
    few = IngestSettings(batch=BatchLimits(images=8))
    with Collection.open(empty) as here:
        here.ingest(crops, few)
    path = make_collection(tmp_path / "there", url)
    with Collection.open(path) as there:
        assert there.ingest(crops, few).added == 36
        forget_copies(path)
        assert there.check() == []
        forget_copies(path)
        there.remove(crops[30:])
        there.compact()
        assert there.info().segments == 1
    forget_copies(path)
    with Collection.open(empty) as here:
        here.remove(crops[30:])
    assert found(path, crops) == found(empty, crops)
    held = {each.name for each in (path / "segments").iterdir()}
    assert Bucket.noted(path).names() == held
    with pytest.raises(StoreError, match="is not empty"):
        Collection.open(tmp_path / "another", create=True, storage=url)
    with pytest.raises(CollectionError, match="leave out --storage"):
        Collection.open(path, storage="s3://photos/elsewhere")


def test_bounds_and_projections_are_copied_anew(url, tmp_path):
    """Those of another machine's copies are old, or cut short; what is there fits together."""
    (tmp_path / "writer").mkdir()
    (tmp_path / "reader").mkdir()
    bucket = Bucket.claimed(url, tmp_path)
    ids = np.arange(3_000) + 1
    rows = np.random.default_rng(0).normal(size=(3_000, 512)) * np.geomspace(1, 1e-4, 512)
    writer, reader = (VectorStore(tmp_path / name, bucket) for name in ("writer", "reader"))
    segment = writer.add(ids, rows.astype(np.float32))
    whole = [SegmentRows(segment, np.empty(0, np.uint8))]
    for _ in range(2):
        writer.forget_projection()
        writer.build_bounds([segment], lambda _: ids)
        reader.renew_projection()
        reader.gallery(whole, 512, np.inf, lambda _: ids).close()
        for name in ("basis.npz", f"{segment.name}.bounds"):
            ours, theirs = (tmp_path / each / name for each in ("writer", "reader"))
            assert ours.read_bytes() == theirs.read_bytes()
        theirs.write_bytes(theirs.read_bytes()[:-1])
        rows += 1


def test_a_cut_connection_loses_nothing(server, tmp_path, crops):
    server.left = None
    path = make_collection(tmp_path / "there", server.url(tmp_path.name))
    with Collection.open(path) as collection:
        collection.ingest(crops[:18])
        before = found(path, crops)
        for count in (2_000, 6_000):  # while the bucket is listed, and while it is written to
            server.left = count
            with pytest.raises(StoreError, match=r"^s3://photos/.*AWS Error"):
                collection.ingest(crops)
        forget_copies(path)
        with pytest.raises(StoreError, match=r"^s3://photos/.*AWS Error"):
            found(path, crops)
        server.left = None
        assert found(path, crops) == before
        assert collection.ingest(crops).added == 18
        assert collection.check() == []


@pytest.mark.parametrize("wrong", ["missing", "altered"])
def test_a_damaged_object_is_told(server, tmp_path, crops, imgsim, wrong):
    server.left = None
    path = make_collection(tmp_path / "there", server.url(tmp_path.name))
    with Collection.open(path) as collection:
        collection.ingest(crops)
    before = found(path, crops)
    (copy,) = (path / "segments").glob("*.faiss")
    content, key = copy.read_bytes(), f"{tmp_path.name}/{copy.name}"
    forget_copies(path)
    if wrong == "missing":
        server.client.delete_object(Bucket="photos", Key=key)
    else:
        server.client.put_object(Bucket="photos", Key=key, Body=content[:-1] + b"\0")
    done = imgsim("-c", path, "query", crops[0])
    assert done.returncode == CollectionDamaged.exit_code
    assert done.stderr.count(b"\n") == 1
    assert copy.name.encode() in done.stderr
    server.client.put_object(Bucket="photos", Key=key, Body=content)
    assert found(path, crops) == before


def test_two_collections_with_one_bucket_do_not_sweep_each_other(url, tmp_path, crops):
    """Whichever came first; a copy of a folder shares the bucket, and that is told in the docs."""
    paths = [make_collection(tmp_path / "a", url)]
    for name in Bucket.noted(paths[0]).names():
        Bucket.noted(paths[0]).remove(name)
    Bucket.noted(paths[0]).remove("imgsim.owner")  # as it was when both looked
    paths.append(make_collection(tmp_path / "b", url))
    with Collection.open(paths[1]) as second:
        second.ingest(crops[:9])
    with (
        Collection.open(paths[0]) as first,
        pytest.raises(StoreError, match="belongs to another"),
    ):
        first.ingest(crops)
    forget_copies(paths[1])
    assert len(found(paths[1], crops)) == 20


def test_a_collection_that_came_to_nothing_leaves_the_bucket(url, tmp_path, imgsim):
    """So that the same command can be given again; what has segments stays."""
    command = "--storage", url, "-c", tmp_path / "c", "train", tmp_path / "nothing"
    for _ in range(2):
        done = imgsim(*command)
        assert done.returncode != 0
        assert b"is not empty" not in done.stderr
        assert not (tmp_path / "c").exists()
    bucket = Bucket.claimed(url, tmp_path)
    (tmp_path / "a.faiss").write_bytes(b"kept")
    bucket.put(tmp_path / "a.faiss")
    bucket.release()
    assert bucket.names() == {"a.faiss"}


def test_a_damaged_copy_is_copied_anew(url, tmp_path, crops):
    """No image is lost whose file is gone; a file that only the folder has is told, and sent."""
    path = make_collection(tmp_path / "c", url)
    gone = shutil.copy(crops[0], tmp_path / "gone.jpg")
    with Collection.open(path) as collection:
        collection.ingest([gone, *crops[:9]])
        before = found(path, crops)
        (tmp_path / "gone.jpg").unlink()
        (copy,) = (path / "segments").glob("*.faiss")
        content = copy.read_bytes()
        copy.write_bytes(content[:-1] + b"\0")
        report = collection.repair()
        assert (report.encoded, report.forgotten) == (0, ())
        assert copy.read_bytes() == content
        assert found(path, crops) == before
        Bucket.noted(path).remove(copy.name)
        (damage,) = collection.check()
        assert (damage.path, damage.found) == (str(copy), "none")
        collection.repair()
        assert copy.name in Bucket.noted(path).names()
        assert collection.check() == []


def test_what_was_not_sent_is_sent_by_the_next(server, tmp_path):
    """A writer ended between writing bounds here and there."""
    server.left = None
    (tmp_path / "c").mkdir()
    bucket = Bucket.claimed(server.url(tmp_path.name), tmp_path)
    store, ids = VectorStore(tmp_path / "c", bucket), np.arange(3_000) + 1
    rows = np.random.default_rng(0).normal(size=(3_000, 512)) * np.geomspace(1, 1e-4, 512)
    segment = store.add(ids, rows.astype(np.float32))
    server.left = 2_000
    with pytest.raises(StoreError, match="AWS Error"):
        store.build_bounds([segment], lambda _: ids)
    server.left = None
    store.build_bounds([segment], lambda _: ids)
    store.build_tables([segment], lambda _: ids)
    held = {each.name for each in (tmp_path / "c").iterdir()}
    assert f"{segment.name}.bounds" in held
    assert bucket.names() == held


def test_an_upload_that_is_interrupted_leaves_nothing(server, tmp_path, monkeypatch):
    server.left = None
    bucket = Bucket.claimed(server.url(tmp_path.name), tmp_path)
    path = tmp_path / "a.faiss"
    path.write_bytes(bytes(9 << 20))
    real = Path.open

    class Interrupted(io.FileIO):
        def read(self, size=-1):
            if self.tell():
                raise KeyboardInterrupt
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda self, *mode: Interrupted(self))
    with pytest.raises(KeyboardInterrupt):
        bucket.put(path)
    monkeypatch.setattr(Path, "open", real)
    assert bucket.names() == set()


def test_an_ingest_that_is_killed_goes_on(server, tmp_path, crops):
    """What was sent and not committed is swept from the bucket, too."""
    server.left = None
    path = make_collection(tmp_path / "there", server.url(tmp_path.name))
    bucket = Bucket.noted(path)
    for _ in range(3):
        command = [sys.executable, "-m", "imgsim", "-c", path, "ingest", *crops]
        before = bucket.names()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while bucket.names() == before and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Collection.open(path) as collection:
            assert collection.check() == []
            collection.remove(crops)
    with Collection.open(path) as collection:
        assert collection.ingest(crops).added == 36
        assert collection.info().images == 36
        segments = [each for each in bucket.names() if each.endswith(".faiss")]
        assert len(segments) == collection.info().segments
