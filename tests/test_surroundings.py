"""Full disks, quotas, and directories that may not be written to: one clear error, nothing lost."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from imgsim import Collection, StoreError
from tests.conftest import make_collection
from tests.jobs.test_ingest import facts


def refused(done):
    """Say whether a command ended with one line about an error, and the exit code of one."""
    told = done.stderr.decode().splitlines()
    return done.returncode in {10, 40} and len(told) == 1 and told[0].startswith("imgsim: error: ")


def is_as_before(path, before):
    with Collection.open(path) as collection:
        return facts(collection) == before and collection.check() == []


@pytest.fixture
def half(empty, pictures):
    """A collection that holds eighteen of the pictures."""
    with Collection.open(empty) as collection:
        collection.ingest(sorted(pictures.iterdir())[:18])
    return empty


@pytest.mark.parametrize("most", [0, 33_000, 34_000])
def test_a_quota_of_bytes_in_a_file(half, pictures, imgsim, most):
    with Collection.open(half) as collection:
        before = facts(collection)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    done = imgsim("-c", half, "ingest", pictures, preexec_fn=limit)
    assert refused(done), done.stderr
    assert is_as_before(half, before)
    assert imgsim("-c", half, "ingest", pictures).returncode == 0
    assert imgsim("-c", half, "info", "--json").stdout.count(b'"images": 36') == 1


@pytest.fixture
def disk(tmp_path):
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("left", [0, 4_096, 40_960])
def test_a_full_disk(disk, half, pictures, imgsim, left):
    path = shutil.copytree(half, disk / "c")
    with Collection.open(path) as collection:
        before = facts(collection)
    with open(disk / "filler", "wb", buffering=0) as filler:
        room = os.statvfs(disk)
        filler.write(bytes(max(0, room.f_bavail * room.f_frsize - left)))
    done = imgsim("-c", path, "ingest", pictures)
    assert refused(done), done.stderr
    assert b"full" in done.stderr or b"No space left on device" in done.stderr
    if left == 40_960:
        assert imgsim("-c", path, "query", sorted(pictures.iterdir())[0]).returncode == 0
    (disk / "filler").unlink()
    assert is_as_before(path, before)
    assert imgsim("-c", path, "ingest", pictures).returncode == 0


@pytest.mark.parametrize("left", [0, 4_096, 12_288])
@pytest.mark.parametrize(
    ("what", "name"),
    [
        *(("neighbours", f"n.{suffix}") for suffix in ("csv", "jsonl", "parquet", "npz")),
        *(("embeddings", f"e.{suffix}") for suffix in ("npz", "parquet", "pkl")),
        ("index", "i.faiss"),
    ],
)
def test_a_disk_that_fills_while_something_is_exported(disk, many, what, name, left):
    """No signal, no traceback, nothing left."""
    target = disk / name
    target.write_bytes(b"before")
    with open(disk / "filler", "wb", buffering=0) as filler:
        room = os.statvfs(disk)
        filler.write(bytes(max(0, room.f_bavail * room.f_frsize - left)))
    export = {
        "neighbours": many.export_neighbours,
        "embeddings": many.export_embeddings,
        "index": many.export_index,
    }[what]
    with pytest.raises(StoreError, match="No space left on device"):
        export(target)
    assert sorted(os.listdir(disk)) == sorted(["filler", name])
    assert target.read_bytes() == b"before"


@pytest.fixture
def many(collection, tmp_path):
    """A collection of three hundred different images."""
    random = np.random.default_rng(0)
    for number in range(300):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    collection.ingest(tmp_path.glob("*.png"))
    return collection


def test_a_file_system_that_is_read_only(disk, half, pictures, imgsim):
    path = shutil.copytree(half, disk / "c")
    with Collection.open(path) as collection:
        before = facts(collection)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert refused(imgsim("-c", path, "ingest", pictures))
    assert refused(imgsim("-c", path, "compact"))
    assert refused(imgsim("-c", path, "remove", pictures))
    assert imgsim("-c", path, "query", sorted(pictures.iterdir())[0]).returncode == 0
    assert imgsim("-c", path, "ingest", pictures, "--dry-run").returncode == 0
    assert is_as_before(path, before)


STRANGER = """
import os, sys
from imgsim import Collection, CollectionError

path, image = sys.argv[1:]

def look(rank):
    with Collection.open(path) as collection:
        (result,) = collection.query(image, rank)
        assert result.matches[0].distance == 0
        assert collection.check() == []
        print(collection.info().images, flush=True)
        try:
            collection.ingest(image)
        except CollectionError as error:
            return "cannot be written to" in error.reason
    return False

assert not look(1)  # as root: loads what there is to load
os.setresuid(65534, 65534, 65534)
while sys.stdin.readline():
    assert look(20)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_collection_of_another_user(crops):
    """A user who may read it, and not write to it, sees what its owner does meanwhile."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        image = shutil.copy(crops[0], folder)
        path = make_collection(Path(folder) / "c")
        command = [sys.executable, "-c", STRANGER, path, image]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with Collection.open(path) as collection:
            collection.ingest(crops[:20])
        with subprocess.Popen(command, **pipes) as stranger:

            def seen():
                stranger.stdin.write("look\n")
                stranger.stdin.flush()
                return int(stranger.stdout.readline())

            assert int(stranger.stdout.readline()) == 20
            assert seen() == 21
            with Collection.open(path) as collection:
                collection.ingest(crops[20:30])
                collection.compact()
                assert seen() == 31
                collection.ingest(crops[30:])
                assert seen() == 37
            assert seen() == 37
            stranger.stdin.close()
        assert stranger.returncode == 0
