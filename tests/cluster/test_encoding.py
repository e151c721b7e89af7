"""Images that the workers of a cluster decode and encode."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image

from imgsim import BatchLimits, ClusterError, ClusterSettings, Collection, IngestSettings
from imgsim.cluster import ray_cluster, workers
from imgsim.cluster.shards import Sharded
from imgsim.encoder.encoder import Encoder
from imgsim.options import DecodeRules
from tests.cluster.conftest import raylets_of, workers_of
from tests.conftest import make_collection


def on(cluster, path, **settings):
    return Collection.open(path, cluster=ClusterSettings(cluster.address, **settings))


def held(collection):
    """All that a collection has of images, and what it refused."""
    rows = collection.path / "rows.npz"
    collection.export_embeddings(rows)
    with np.load(rows) as arrays:
        paths, embeddings = arrays["path"].tolist(), arrays["embedding"]
    known = {each.path: replace(each, id=0) for each in collection.images()}
    refused = {(each.path, each.reason) for each in collection.refused()}
    return dict(zip(paths, map(bytes, embeddings), strict=True)), known, refused


@pytest.fixture(scope="module")
def large(tmp_path_factory, crops):
    """Sixty-four pictures that take a while each."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(64):
        with Image.open(crops[number % 36]) as image:
            size = 1_400 + number, 1_400
            image.resize(size).save(folder / f"{number}.png", compress_level=1)
    return folder


@pytest.fixture
def both(tmp_path):
    """Return two empty collections with the same encoder: one for this process."""
    return make_collection(tmp_path / "here"), make_collection(tmp_path / "there")


def test_it_stores_what_one_process_stores(cluster, both, pictures):
    """To the last bit: with copies, links, what is refused, no image, moved, changed, not new."""
    some = sorted(pictures.iterdir())
    shutil.copy(some[0], pictures / "same.jpg")
    shutil.copy(some[1], pictures / b"odd-\xff.jpg".decode(errors="surrogateescape"))
    (pictures / "cut.jpg").write_bytes(some[2].read_bytes()[:900])
    (pictures / "notes.txt").write_text("no image")
    (pictures / "link.jpg").symlink_to(some[3])
    few = IngestSettings(batch=BatchLimits(images=10, compared=7))
    with Collection.open(both[0]) as here, on(cluster, both[1]) as there:
        first = here.ingest(pictures, few)
        assert there.ingest(pictures, few) == first
        assert (first.added, len(first.refused)) == (38, 1)
        assert held(there) == held(here)
        some[4].rename(pictures / "moved.jpg")
        shutil.copy(some[5], some[6])
        again = there.ingest(pictures, few)
        assert (again.moved, again.changed) == (1, 1)
        assert here.ingest(pictures, few) == again
        assert held(there) == held(here)
        assert there.check() == []
        assert there.ingest(pictures, few).unchanged == 38


@pytest.mark.parametrize("killed", ["worker", "node"])
def test_a_death_costs_time_alone(cluster, both, large, killed):
    if killed == "node":
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
    begun, done = threading.Event(), threading.Event()
    deaths = []

    def kill():
        begun.wait(60)  # with the first file, which is alone: the next ones are together
        while not done.is_set() and not deaths:
            for busy in workers_of(cluster, "_encoded")[:1]:
                if killed == "worker":
                    busy.kill()
                else:
                    cluster.remove_node(raylets_of(cluster)[busy.ppid()], allow_graceful=False)
                deaths.append(busy)
            time.sleep(0.005)

    with Collection.open(both[0]) as here, on(cluster, both[1]) as there:
        expected = here.ingest(large)
        thread = threading.Thread(target=kill)
        thread.start()
        report = there.ingest(large, on_progress=lambda *_: begun.set())
        done.set()
        thread.join()
        assert deaths
        assert report == expected
        assert held(there) == held(here)


def test_a_file_that_workers_die_of_is_refused(cluster, empty, large, tmp_path):
    """Whoever opens it is killed; the files beside it are stored."""
    folder = tmp_path / "folder"
    shutil.copytree(large, folder)
    fatal = folder / "20.png"
    done = threading.Event()
    deaths = []

    def kill():
        while not done.is_set():
            for each in workers_of(cluster, "_encoded"):
                try:
                    if any(opened.path == str(fatal) for opened in each.open_files()):
                        each.kill()
                        deaths.append(each.pid)
                except psutil.NoSuchProcess:
                    pass
            time.sleep(0.001)

    with Image.open(fatal) as image:
        image.resize((9_000, 9_000)).save(fatal, compress_level=1)  # it is open for long
    with on(cluster, empty) as collection:
        thread = threading.Thread(target=kill)
        thread.start()
        report = collection.ingest(folder)
        done.set()
        thread.join()
        assert [(each.path, each.reason) for each in report.refused] == [
            (str(fatal), "3 workers died of it")
        ]
        assert len({*deaths}) == 3
        assert report.added == 63
        assert collection.check() == []


def test_other_bits_are_refused(cluster, empty, pictures, monkeypatch):
    """As those of another kind of processor are; nothing of them is stored."""
    monkeypatch.setattr(workers, "probes", lambda _: b"other")
    with on(cluster, empty) as collection:
        with pytest.raises(ClusterError, match=r"gives other last bits .* --allow-mixed"):
            collection.ingest(pictures)
        assert collection.info().images == 0
    with on(cluster, empty, allow_mixed=True) as collection:
        assert collection.ingest(pictures).added == 36


def test_no_room_is_told(cluster, empty, pictures, monkeypatch):
    """What takes up all cores is a search."""
    some = sorted(pictures.iterdir())
    with Collection.open(empty) as here:
        for path in some[:2]:  # a segment each
            here.ingest(path)
    with on(cluster, empty, shards=2) as collection:
        with collection.searcher() as searcher:
            searcher.search(some[0])
            monkeypatch.setattr(ray_cluster, "PATIENCE", 2.0)
            with pytest.raises(ClusterError, match="no worker has answered for 2 s"):
                collection.ingest(pictures)
        monkeypatch.setattr(ray_cluster, "PATIENCE", 60.0)
        assert collection.ingest(pictures).added == 34


def test_an_encoder_that_a_worker_cannot_load_is_told(cluster, empty, crops):
    """It lacks the mount, say."""
    (folder,) = (empty / "encoders").iterdir()
    encoder = Encoder(folder)
    encoder.path.rename(folder / "gone")
    segments = Sharded(empty / "segments")
    with closing(workers.Workers(ClusterSettings(cluster.address), segments)) as cluster_workers:
        encoding = cluster_workers.encoding(encoder, DecodeRules())
        with pytest.raises(ClusterError, match=r"a worker failed: .*onnx: cannot be read: No such"):
            next(encoding(crops))


def test_a_driver_that_is_killed_leaves_what_is_stored(cluster, empty, large):
    """The next ingest goes on, and the workers are gone."""
    command = [sys.executable, "-m", "imgsim", "-c", empty, "--cluster", cluster.address]
    process = subprocess.Popen([*command, "ingest", large])
    until = time.monotonic() + 60
    while not workers_of(cluster, "_encoded"):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Collection.open(empty) as collection:
        assert collection.check() == []
        assert collection.ingest(large).seen == 64
        assert collection.info().images == 64
    while workers_of(cluster, "_encoded"):
        assert time.monotonic() < until
        time.sleep(0.1)
