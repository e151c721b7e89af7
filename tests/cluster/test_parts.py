"""Lists of neighbours that the workers of a cluster write, as one process would."""

import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from imgsim import (
    ClusterError,
    ClusterSettings,
    Collection,
    StoreError,
)
from imgsim.jobs import parts
from imgsim.options import SearchFilter
from tests import s3
from tests.cluster.conftest import eventually, raylets_of, workers_of

WITHIN = {
    "all": (3, SearchFilter()),
    "distinct": (3, SearchFilter(distinct=True)),
    "radius": (None, SearchFilter(radius=4.0)),
    "none": (3, SearchFilter(under="/nowhere")),
}
PROGRAM = """
import os, psutil, sys
from contextlib import nullcontext
from imgsim.cli import main, search
from imgsim.jobs import parts

path, address, target, *nodes = sys.argv[1:]
nodes, first, killed = {*map(int, nodes)}, iter([True]), []

def kill(*_):  # workers of some nodes, or this process
    for each in psutil.process_iter(["pid", "ppid", "name"]) if next(first, False) else ():
        is_worker = each.info["ppid"] in nodes and "Shard" in each.info["name"]
        if is_worker or not nodes and each.info["pid"] == os.getpid():
            each.kill()
            killed.append(each)

parts._PART, search.progress_bar = 2, lambda *_, **__: nullcontext(kill)
sys.argv = ["imgsim", "-c", path, "export", "neighbours", "--cluster", address, "-k3", "-o", target]
try:
    main.main()
finally:
    assert killed
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "_PART", 2)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "neighbours"


def by_one(stored, folder, asked="all"):
    stored.export_neighbours(folder.with_name("one.parquet"), *WITHIN[asked])
    return pq.read_table(folder.with_name("one.parquet"))


def by_workers(stored, cluster, where, asked="all", on_progress=None, shards=0, replicas=1):
    settings = ClusterSettings(cluster.address, shards, replicas)
    with Collection.open(stored.path, cluster=settings) as collection:
        return collection.export_neighbours(where, *WITHIN[asked], on_progress)


def by_another(stored, cluster, folder, nodes=()):
    """Let another process export, which kills workers of some nodes, or itself, after a part."""
    asked = stored.path, cluster.address, f"file://{folder}", *nodes
    command = [sys.executable, "-c", PROGRAM, *map(str, asked)]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.mark.parametrize("asked", WITHIN)
def test_the_lists_are_those_of_one_process(cluster, stored, folder, asked):
    """To the last bit, with copies, paths that are no text, rows that are gone, and filters."""
    seen = []
    rows = by_workers(stored, cluster, f"file://{folder}", asked, lambda *done: seen.append(done))
    expected = by_one(stored, folder, asked)
    assert rows == expected.num_rows
    assert pq.read_table(folder).equals(expected)
    images = stored.info().images
    assert len(seen) == len(list(folder.iterdir())) > 4
    assert seen[-1] == (images, images)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_they_write_to_an_object_store(cluster, stored, tmp_path, folder):
    with s3.running_server() as server:
        url = server.url("lists")
        expected = by_one(stored, folder)
        assert by_workers(stored, cluster, url, shards=1, replicas=2) == expected.num_rows
        found = server.client.list_objects_v2(Bucket="photos", Prefix="lists/neighbours-")
        names = sorted(each["Key"] for each in found["Contents"])
        folder.mkdir()
        for name in names:
            server.client.download_file("photos", name, str(folder / os.path.basename(name)))
        assert pq.read_table(folder).equals(expected)


@pytest.mark.parametrize(("shards", "replicas"), [(2, 1), (1, 2)])
def test_all_workers_take_part(cluster, stored, shards, replicas):
    settings = ClusterSettings(cluster.address, shards, replicas)
    with (
        Collection.open(stored.path, cluster=settings) as collection,
        collection._directory.reading() as snapshot,
        collection._directory.gallery(snapshot) as gallery,
    ):
        gallery.search(np.zeros((1, gallery.dim), np.float32), 1)
        eventually(lambda: not any(team.others for team in gallery.remote().teams))
        pids = [*gallery.each(lambda both, _: (*both, os.getpid())[-1], (), range(8))]
    assert sorted(map(pids.count, {*pids})) == [4, 4]


def test_only_what_is_missing_is_written(cluster, stored, folder):
    """By whoever goes on with it."""
    stored.export_neighbours(f"file://{folder}", *WITHIN["all"])
    whole, files = pq.read_table(folder), sorted(folder.iterdir())
    before = {path: path.stat().st_mtime_ns for path in files[:3] + files[4:]}
    files[3].unlink()
    seen = []
    by_workers(stored, cluster, f"file://{folder}", on_progress=lambda *done: seen.append(done))
    assert len(seen) == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert pq.read_table(folder).equals(whole)


def test_a_worker_that_dies_costs_time_alone(cluster, stored, folder):
    """While it has parts to write, and others ask it."""
    killed = []

    def kill(*_):
        if not killed:
            killed.extend(workers_of(cluster, "Shard")[:1])
            killed[0].kill()

    rows = by_workers(stored, cluster, f"file://{folder}", on_progress=kill)
    expected = by_one(stored, folder)
    assert killed
    assert rows == expected.num_rows
    assert pq.read_table(folder).equals(expected)


def test_ray_tells_of_a_death_nowhere(cluster, stored, folder):
    """What a command prints may be read by another."""
    found = by_another(stored, cluster, folder, raylets_of(cluster))
    assert (found.returncode, found.stdout) == (0, b"")
    assert pq.read_table(folder).equals(by_one(stored, folder))


def test_an_export_that_is_killed_goes_on(cluster, stored, folder):
    assert by_another(stored, cluster, folder).returncode == -signal.SIGKILL
    assert all(path.name.startswith(".") for path in folder.iterdir())
    seen = []
    by_workers(stored, cluster, f"file://{folder}", on_progress=lambda *done: seen.append(done))
    expected = by_one(stored, folder)
    assert pq.read_table(folder).equals(expected)
    assert 0 < len(seen) < len(list(folder.iterdir()))


def test_what_was_written_must_be_seen(cluster, stored, folder):
    """As where a mount is not the same everywhere, or goes away; nothing of what was there does."""
    stored.export_neighbours(f"file://{folder}", 2)
    before = pq.read_table(folder)

    def move(*_):
        folder.rename(folder.with_name("away"))

    with pytest.raises(StoreError, match=r"parquet: is not there any more, or not on all machines"):
        by_workers(stored, cluster, f"file://{folder}", on_progress=move)
    folder.with_name("away").rename(folder)
    assert pq.read_table(folder).equals(before)


def test_a_connection_that_is_cut(cluster, stored, folder):
    """For the workers, or for the process that asks: one line, and the next export goes on."""
    with s3.running_server() as server:

        def cut(*_):
            server.left = 5_000

        with pytest.raises((StoreError, ClusterError), match=r"^[^\n]*s3://photos/cut[^\n]*$"):
            by_workers(stored, cluster, server.url("cut"), on_progress=cut)
        server.left = None
        seen = []
        rows = by_workers(
            stored, cluster, server.url("cut"), on_progress=lambda *done: seen.append(done)
        )
    assert rows == by_one(stored, folder).num_rows
    assert 0 < len(seen) < 7


def test_who_has_all_parts_joins_no_cluster(stored, folder):
    stored.export_neighbours(f"file://{folder}", 3)
    with Collection.open(stored.path, cluster=ClusterSettings("192.0.2.9:1")) as collection:
        rows = collection.export_neighbours(f"file://{folder}", 3)
        assert collection._directory.workers._ray is None
    assert rows == pq.read_table(folder).num_rows
