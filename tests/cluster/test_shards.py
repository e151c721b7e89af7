"""A collection searched by the workers of a cluster."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from imgsim import (
    BatchLimits,
    ClusterError,
    ClusterSettings,
    Collection,
    DuplicateSettings,
    ExtraMissing,
    IngestSettings,
    Searcher,
    SearchFilter,
    StoreError,
)
from imgsim.cluster import gallery, ray_cluster
from imgsim.cluster.cache import cache_of, make_room
from imgsim.cluster.shards import Asked, Place, Shard, Sharded, View, deal_out
from imgsim.files import cache_folder
from imgsim.records import Segment, SegmentRows
from tests.cluster.conftest import eventually, raylets_of, workers_of
from tests.conftest import make_collection
from tests.server.serving import served

SEEN_LATE = """
import sys
from contextlib import suppress
from psutil import NoSuchProcess
from imgsim import ClusterSettings, Collection
from ray.cluster_utils import Cluster
from tests.cluster.conftest import workers_of

detection = {"initial_delay_ms": 1_000, "period_ms": 1_000, "failure_threshold": 24}
config = {f"health_check_{name}": value for name, value in detection.items()}
config["worker_niceness"] = 0
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": config})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
settings = ClusterSettings(cluster.address, 1)
with Collection.open(sys.argv[1], cluster=settings) as there, Collection.open(sys.argv[1]) as here:
    with there.searcher() as searcher, here.searcher() as alone:
        assert len(searcher.search(sys.argv[2])) == 1
        worker, = workers_of(cluster, "Shard")
        node, = (each for each in nodes
                 if each.all_processes["raylet"][0].process.pid == worker.ppid())
        cluster.remove_node(node, allow_graceful=False)
        with suppress(NoSuchProcess):  # it has seen that its node is dead
            worker.kill()
            worker.wait()
        assert searcher.search(sys.argv[2]).results == alone.search(sys.argv[2]).results
cluster.shutdown()
"""


@contextmanager
def sharded(path, cluster, shards=0, within=None, replicas=1) -> Iterator[Searcher]:
    """Open a searcher of a collection on a cluster."""
    settings = ClusterSettings(cluster.address, shards, replicas)
    with Collection.open(path, cluster=settings) as collection, collection.searcher(within) as it:
        yield it


def answers(searcher, crops):
    """What is found, in several ways."""
    one, many = searcher.search(crops[3], k=9), searcher.search(crops, k=3)
    return [*one, *many, *searcher.search(crops[:2], k=None)], searcher.search_ids([1, 9], k=4)


def same(found, expected):
    assert found[0] == expected[0]
    assert np.array_equal(found[1].ids, expected[1].ids)
    assert np.array_equal(found[1].distances, expected[1].distances)


@pytest.mark.parametrize(("shards", "share"), [(0, 64), (1, 64), (0, 2)])
@pytest.mark.parametrize("kind", ["all", "distinct", "under", "radius", "none"])
def test_the_answers_are_those_of_one_process(
    cluster, stored, crops, monkeypatch, shards, share, kind
):
    """To the last bit: with ties, rows that are gone, filters, and where nothing is left."""
    monkeypatch.setattr(gallery, "_SHARE", share)  # or so few are asked for in one round
    within = {
        "all": SearchFilter(),
        "distinct": SearchFilter(distinct=True, no_self=True),
        "under": SearchFilter(under=stored.path.parent),
        "radius": SearchFilter(radius=4.0),
        "none": SearchFilter(under="/nowhere"),
    }[kind]
    with (
        stored.searcher(within) as alone,
        sharded(stored.path, cluster, shards, within) as searcher,
    ):
        assert len(searcher) == len(alone)
        same(answers(searcher, crops), answers(alone, crops))
        both = (each.search(crops[:5], k=2).stats.queries for each in (searcher, alone))
        assert len({*both}) == 1


def test_it_goes_on_with_the_collection_as_it_is(cluster, empty, crops):
    with Collection.open(empty) as collection:
        collection.ingest(crops[:8])
        with sharded(empty, cluster) as searcher:
            collection.ingest(crops[8:])
            assert len(searcher) == len(searcher.search(crops[0], k=None)[0].matches) == 8
            (first,) = workers_of(cluster, "Shard")
            searcher.refresh()
            assert len(searcher) == 36
            assert searcher.search(crops[20], k=1)[0].matches[0].path == crops[20]
            assert first in workers_of(cluster, "Shard")  # and another for the new segment
        with pytest.raises(ValueError, match="closed"):
            searcher.search(crops[0])


@pytest.mark.parametrize("killed", ["worker", "node"])
def test_a_death_costs_time_alone(cluster, stored, crops, killed):
    """While it searches: the answers stay what they were."""
    victim = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    with (
        stored.searcher() as alone,
        sharded(stored.path, cluster, 3) as searcher,
    ):
        expected = answers(alone, crops)
        same(answers(searcher, crops), expected)  # there is a worker on each node by now
        spare = cluster.add_node(num_cpus=1)

        def kill():
            time.sleep(0.2)
            if killed == "node":
                cluster.remove_node(victim, allow_graceful=False)
            else:
                workers_of(cluster, "Shard")[0].kill()

        thread = threading.Thread(target=kill)
        thread.start()
        until = time.monotonic() + 1
        while thread.is_alive() or time.monotonic() < until:
            same(answers(searcher, crops), expected)
        same(answers(searcher, crops), expected)
    for node in (spare, victim) if killed == "worker" else (spare,):
        cluster.remove_node(node, allow_graceful=False)


def test_a_death_that_is_seen_late_costs_time_alone(stored, crops):
    """After half a minute; Ray itself takes more than fifteen seconds, of a node that is busy."""
    command = [sys.executable, "-c", SEEN_LATE, str(stored.path), crops[3]]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr


def test_a_replica_answers_where_no_worker_comes_back(cluster, stored, crops):
    """There is no core left for another."""
    victim = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    with (
        stored.searcher() as alone,
        sharded(stored.path, cluster, 1, replicas=3) as searcher,
    ):
        expected = answers(alone, crops)
        same(answers(searcher, crops), expected)
        eventually(lambda: len(workers_of(cluster, "Shard")) == 3)
        thread = threading.Thread(
            target=cluster.remove_node, args=(victim,), kwargs={"allow_graceful": False}
        )
        thread.start()
        while thread.is_alive():
            same(answers(searcher, crops), expected)
        for _ in range(3):  # another is first each time
            same(answers(searcher, crops), expected)
        assert len(workers_of(cluster, "Shard")) == 2


def test_all_replicas_may_die_at_once(cluster, stored, crops):
    with (
        stored.searcher() as alone,
        sharded(stored.path, cluster, 1, replicas=2) as searcher,
    ):
        expected = answers(alone, crops)
        same(answers(searcher, crops), expected)
        for worker in workers_of(cluster, "Shard"):
            worker.kill()
        same(answers(searcher, crops), expected)


def test_the_workers_stay_while_somebody_searches(cluster, stored, crops):
    """What is searched may be narrowed, or another state of the collection."""

    def pids():
        return {each.pid for each in workers_of(cluster, "Shard")}

    settings, under = ClusterSettings(cluster.address), SearchFilter(under=stored.path.parent)
    with Collection.open(stored.path, cluster=settings) as collection:
        with collection.searcher() as first:
            first.search(crops[0])
            before = pids()
            for _ in range(3):
                with collection.searcher(under) as narrowed, stored.searcher(under) as alone:
                    same(answers(narrowed, crops), answers(alone, crops))
            with stored.searcher() as alone:
                same(answers(first, crops), answers(alone, crops))
            assert pids() == before
        eventually(lambda: not pids())


def test_a_replica_that_has_no_core_is_not_waited_for(cluster, stored, crops, monkeypatch):
    """There are two cores for three workers."""
    monkeypatch.setattr(ray_cluster, "_silent", lambda *_: pytest.fail("it was waited for"))
    with stored.searcher() as alone, sharded(stored.path, cluster, 1, replicas=3) as searcher:
        expected = answers(alone, crops)
        for _ in range(3):  # another is first each time
            same(answers(searcher, crops), expected)


def test_damage_ends_no_worker(cluster, empty, crops):
    """Others go on, and it may be mended."""
    with Collection.open(empty) as collection:
        collection.ingest(crops)
    (path,) = (empty / "segments").glob("*.faiss")
    sound = path.read_bytes()
    with (
        Collection.open(empty, cluster=ClusterSettings(cluster.address)) as collection,
        collection.searcher() as first,
        collection.searcher(SearchFilter(under="/")) as second,
    ):
        expected = answers(first, crops)
        (worker,) = workers_of(cluster, "Shard")
        path.write_bytes(sound[:-1_000] + bytes(1_000))
        with pytest.raises(ClusterError, match=r"a worker failed: .*damaged"):
            second.search(crops[0])
        path.write_bytes(sound)
        same(answers(first, crops), expected)
        same(answers(second, crops), expected)
        assert workers_of(cluster, "Shard") == [worker]


def test_no_room_for_workers_is_told(cluster, stored, crops, monkeypatch):
    monkeypatch.setattr(ray_cluster, "PATIENCE", 3.0)
    with (
        sharded(stored.path, cluster, 8) as searcher,
        pytest.raises(ClusterError, match="have not begun in 3 s; are there still machines"),
    ):
        searcher.search(crops[0])


def test_a_segment_that_a_worker_lacks_is_told(cluster, empty, crops):
    with Collection.open(empty) as collection:
        collection.ingest(crops)
        for path in (empty / "segments").glob("*.faiss"):
            path.rename(path.with_suffix(".gone"))
        with (
            sharded(empty, cluster) as searcher,
            pytest.raises(ClusterError, match=r"a worker failed: .*\.faiss"),
        ):
            searcher.search(crops[0])


def test_two_searchers_are_in_one_cluster(cluster, stored, crops):
    """Whichever closes first."""
    with sharded(stored.path, cluster, 1) as second:
        with sharded(stored.path, cluster, 1) as first:
            assert len(first.search(crops[0], k=2)[0].matches) == 2
        assert len(second.search(crops[0], k=2)[0].matches) == 2
        with pytest.raises(ValueError, match="closed"):
            first.search(crops[0])


def test_all_pairs_are_those_of_one_process(cluster, stored, tmp_path):
    """Lists of neighbours, groups of duplicates, outliers: whatever searches."""
    settings = ClusterSettings(cluster.address)
    near, within = DuplicateSettings(radius=4.0), SearchFilter(distinct=True)
    with Collection.open(stored.path, cluster=settings) as there:
        for collection, name in ((stored, "here.csv"), (there, "there.csv")):
            collection.export_neighbours(tmp_path / name, 5, within)
        assert list(there.neighbours(None)) == list(stored.neighbours(None))
        ours, theirs = (each.curation.duplicates(near) for each in (there, stored))
        assert ours.groups == theirs.groups
        assert len(ours.groups)
        assert there.curation.outliers(3).outliers == stored.curation.outliers(3).outliers
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_what_needs_no_worker_joins_no_cluster(stored):
    """Nor is it noticed then that there is none."""
    with Collection.open(stored.path, cluster=ClusterSettings("127.0.0.1:1")) as collection:
        assert collection.info().images == len(list(collection.images()))
        with collection.searcher() as searcher:
            assert len(searcher) == collection.info().images


def test_a_search_may_take_its_time(cluster, stored, crops, monkeypatch):
    """As long as its workers say that they are there."""
    monkeypatch.setattr(ray_cluster, "PATIENCE", 0.001)
    with sharded(stored.path, cluster, 1) as searcher:
        with pytest.raises(ClusterError, match="have not begun"):
            searcher.search(crops[0])  # it takes longer to start
        monkeypatch.setattr(ray_cluster, "PATIENCE", 60.0)
        searcher.search(crops[0])
        calls = []
        monkeypatch.setattr(ray_cluster, "_silent", lambda *asked: calls.append(asked) or [])
        monkeypatch.setattr(ray_cluster, "PATIENCE", 0.0001)
        assert len(searcher.search(crops, k=3)) == 36
        assert calls


def test_segments_are_dealt_out_by_their_size():
    def dealt(names, shards, placed):
        rows = [SegmentRows(Segment(n, int(n), 4, "0"), np.empty(0, np.uint8)) for n in names]
        parts = deal_out(rows, placed, shards)
        return {shard: [each.segment.rows for each in part] for shard, part in parts.items()}

    placed = {}
    assert dealt(["9", "1", "5", "4", "2"], 2, placed) == {0: [9, 2], 1: [5, 4, 1]}
    assert dealt(["9", "5", "7"], 2, placed) == {0: [9], 1: [7, 5]}  # what is there stays
    assert dealt(["1", "2"], 2, placed) == {0: [2], 1: [1]}
    assert len(dealt(["9", "1", "5", "4"], 9, {})) == 4
    assert dealt([], 2, {}) == {}


def test_mistakes(stored, crops, monkeypatch):
    for settings in (("auto", -1), ("",), ("auto", 0, 0)):
        with pytest.raises(ValueError, match=r"shard|address|replica"):
            ClusterSettings(*settings)
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        Collection.open(stored.path, cluster=ClusterSettings("local")) as collection,
        pytest.raises(ExtraMissing, match=r"imgsim\[cluster\]"),
    ):
        collection.query(crops[0])


def test_workers_of_this_machine_are_as_nice_as_others(stored):
    """Ray's own would give way to all other work, and take minutes to begin."""
    program = (
        "import os, sys; from imgsim import ClusterSettings, Collection\n"
        "collection = Collection.open(sys.argv[1], cluster=ClusterSettings('local'))._directory\n"
        "with collection.reading() as snapshot, collection.gallery(snapshot) as gallery:\n"
        "    print(*gallery.each(lambda *_: os.nice(0), None, [0]))\n"
    )
    command = [sys.executable, "-c", program, str(stored.path)]
    assert int(subprocess.check_output(command, timeout=100)) == os.nice(0)


def test_the_command(imgsim, stored, crops, tmp_path):
    here = imgsim("-c", stored.path, "query", "--json", crops[0])
    cluster = "query", "--json", "--cluster", "local"
    there = imgsim("-c", stored.path, *cluster, crops[0], timeout=100)  # a process of its own
    assert (there.returncode, there.stdout, there.stderr) == (0, here.stdout, here.stderr)
    nowhere = "query", "--cluster", "127.0.0.1:1"
    done = imgsim("-c", stored.path, *nowhere, crops[0], timeout=100)
    assert done.returncode == ClusterError.exit_code
    assert done.stderr.startswith(b"imgsim: error: 127.0.0.1:1: cannot be joined: ")
    assert done.stderr.count(b"\n") == 1
    both = "-c", stored.path, "-c", make_collection(tmp_path / "empty")
    alone = imgsim("query", "--json", *both, crops[0])
    joint = imgsim("query", "--json", *both, "--cluster", "local", crops[0], timeout=100)
    assert (joint.returncode, joint.stdout, joint.stderr) == (0, alone.stdout, alone.stderr)


def test_a_cluster_that_wants_a_token(imgsim, stored, crops, tmp_path):
    """Ray shows it where it is told to; who does not is told how."""
    ray, home = Path(sys.executable).with_name("ray"), tmp_path / "home"
    home.mkdir()
    known = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    known |= {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    known["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    subprocess.run([ray, "get-auth-token", "--generate"], env=known, check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = [ray, "start", "--head", "--block", "--num-cpus=1", "--include-dashboard=false"]
    start += ["--node-ip-address=127.0.0.1", f"--port={port}"]
    query = "-c", stored.path, "query", "--json", crops[0]
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as sockets,
        subprocess.Popen(
            [*start, f"--temp-dir={sockets}"], env=known, stdout=subprocess.PIPE
        ) as head,
    ):
        try:
            assert any(b"Ray runtime started" in line for line in head.stdout)
            cluster = *query, "--cluster", f"127.0.0.1:{port}"
            found = imgsim(*cluster, timeout=100, env=known | {"RAY_AUTH_MODE": "token"})
            assert (found.returncode, found.stderr) == (0, b"")
            assert found.stdout == imgsim(*query).stdout
            refused = imgsim(*cluster, timeout=100, env=known)
            assert refused.returncode == ClusterError.exit_code
            assert refused.stderr.endswith(b"; if it wants a token, set RAY_AUTH_MODE=token\n")
        finally:
            head.terminate()
            with suppress(subprocess.TimeoutExpired):
                head.wait(30)
            head.kill()


def test_a_server_asks_the_workers(cluster, stored):
    """They stay between requests, and the answers are those of a server without any."""

    def ask(*options):
        def read(path):
            with urlopen(server.request(path)) as response:
                return response.read()

        with served(stored.path, *options) as server:
            found = [json.loads(read(f"/api/v1/images/{n}/neighbours?k=5")) for n in (1, 2, 3)]
            found += [json.loads(read(f"/api/v1/images/1/neighbours?k=5&under={under}"))]
            shards = re.search(rb"\nimgsim_shards (\d+)\n", read("/api/v1/metrics"))[1]
            return found, int(shards), len(workers_of(cluster, "Shard"))

    under = quote(str(stored.path.parent))
    there, *workers = ask("--cluster", cluster.address)
    assert (there, 0, 0) == ask()
    assert workers == [2, 2]


def test_a_server_has_replicas(cluster, empty, crops, imgsim):
    with Collection.open(empty) as collection:
        collection.ingest(crops)
    with served(empty, "--cluster", cluster.address, "--replicas", "2") as server:
        urlopen(server.request("/api/v1/images/1/neighbours")).close()
        eventually(lambda: len(workers_of(cluster, "Shard")) == 2)
        with urlopen(server.request("/api/v1/metrics")) as response:
            assert b"\nimgsim_shards 1\n" in response.read()
    done = imgsim("-c", empty, "serve", "--replicas", "2")
    assert done.returncode == 2
    assert b"--replicas are workers of a --cluster" in done.stderr


def test_segments_in_a_bucket_are_copied_to_workers(cluster, tmp_path, crops):
    """Each copies those that it searches, once; the answers are those of one process."""
    path = make_collection(tmp_path / "c", f"file://{tmp_path}/bucket")
    few = IngestSettings(batch=BatchLimits(images=12))
    with Collection.open(path) as collection:
        collection.ingest(crops, few)
        with collection.searcher() as alone:
            expected = answers(alone, crops)
        for _ in range(2):
            with sharded(path, cluster, 2) as searcher:
                same(answers(searcher, crops), expected)
        segment = next((tmp_path / "bucket").glob("*.faiss"))
        copy = next(cache_folder().glob(f"segments/*/{segment.name}"))
        assert copy.read_bytes() == segment.read_bytes()
        segment.unlink()
        copy.unlink()
        with (
            sharded(path, cluster, 2) as searcher,
            pytest.raises(ClusterError, match=rf"a worker failed: .*{segment.name}"),
        ):
            searcher.search(crops[0])


def test_who_asks_copies_a_segment_at_a_time(cluster, tmp_path, crops):
    """Where no collection has room, and not into its folder."""
    path = make_collection(tmp_path / "c", f"file://{tmp_path}/bucket")
    with Collection.open(path) as collection:
        collection.ingest(crops, IngestSettings(batch=BatchLimits(images=12)))
        expected = [*collection.neighbours(3)]
    for copy in (path / "segments").iterdir():
        copy.unlink()
    settings = ClusterSettings(cluster.address, 1, cache_bytes=0)
    with Collection.open(path, cluster=settings) as collection:
        assert [*collection.neighbours(3)] == expected
    bucket = {each.name for each in (tmp_path / "bucket").glob("*.faiss")}
    copies = [each for each in cache_folder().glob("segments/*/*.faiss") if each.name in bucket]
    assert sorted(Counter(each.parent for each in copies).values()) == [1, len(bucket)]
    assert not [*(path / "segments").iterdir()]


def test_a_shard_is_where_its_copies_are(cluster, stored, crops):
    """On the same machine for each command; on another while that one has no core free."""

    def place(free):
        eventually(lambda: ray.available_resources().get("CPU") == free)
        with sharded(stored.path, cluster, 1) as searcher:
            assert searcher.search(crops[0], k=3).results == stored.query(crops[0], k=3).results
            (worker,) = workers_of(cluster, "Shard")
            return worker.ppid()

    (home,) = {place(2) for _ in range(4)}
    node = raylets_of(cluster)[home].node_id
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=1, scheduling_strategy=strategy)(lambda: time.sleep(600))
    busy = task.remote()
    assert place(1) != home
    ray.cancel(busy, force=True)


def test_a_worker_keeps_no_copies_beyond_the_limit(cluster, tmp_path, crops):
    path = make_collection(tmp_path / "c", f"file://{tmp_path}/bucket")
    settings = ClusterSettings(cluster.address, 1, cache_bytes=0)
    with (
        Collection.open(path) as writer,
        Collection.open(path, cluster=settings) as collection,
    ):
        writer.ingest(crops, IngestSettings(batch=BatchLimits(images=12)))
        with collection.searcher() as searcher:
            assert len(searcher.search(crops[0], k=None)[0].matches) == 36
            bucket = {each.name for each in (tmp_path / "bucket").glob("*.faiss")}
            assert bucket <= {each.name for each in cache_folder().glob("segments/*/*.faiss")}
            writer.remove(crops[:30])
            writer.compact()
            searcher.refresh()
            assert len(searcher.search(crops[35], k=None)[0].matches) == 6
            left = {each.name for each in cache_folder().glob("segments/*/*.faiss")}
            assert not bucket & left
            assert left


def test_the_cache_of_a_machine_has_a_limit(monkeypatch, tmp_path):
    """What was used longest ago goes first; what is needed stays, and what is in use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    urls = "s3://photos/0", "s3://photos/1"
    for age, name in enumerate(("aa", "bb", "cc", "dd")):
        with cache_of(urls[age % 2]) as folder:
            (folder / f"{name}.faiss").write_bytes(bytes(100))
            os.utime(folder / f"{name}.faiss", (1_000 + age,) * 2)

    def left():
        return sorted(path.stem for path in tmp_path.glob("imgsim/segments/*/*.faiss"))

    make_room({"aa": 100}, 400)
    assert left() == ["aa", "bb", "cc", "dd"]
    with cache_of(urls[1]):
        make_room({"aa": 100, "new": 100}, 400)
        assert left() == ["aa", "bb", "dd"]  # cc, as bb is in use
    make_room({"dd": 100}, 0)
    assert left() == ["dd"]


def test_a_shard_that_could_not_begin_begins_later(cluster, empty, crops):
    """As when a mount comes back."""
    with Collection.open(empty) as collection:
        collection.ingest(crops)
    with sharded(empty, cluster) as searcher:
        (path,) = (empty / "segments").glob("*.faiss")
        path.rename(path.with_suffix(".gone"))
        with pytest.raises(ClusterError, match="a worker failed"):
            searcher.search(crops[0])
        path.with_suffix(".gone").rename(path)
        assert searcher.search(crops[0], k=1)[0].matches[0].path == crops[0]


def test_what_is_forgotten_is_not_opened_again(cluster, stored):
    """As by work that goes on when the one who asked for it has left."""
    with stored._directory.reading() as snapshot:
        rows, dim = snapshot.segment_rows(), snapshot.encoder().dim
    shard = Shard(Sharded(stored.path / "segments"))
    place = Place(0, "key", ray.put(View(rows, dim, np.inf)))
    asked = Asked(np.zeros((1, dim), np.float32), 3, np.full(1, np.inf))
    assert len(shard.search(place, asked).ids) == 3
    shard.forget("key")
    with pytest.raises(StoreError, match="whoever asked has left"):
        shard.search(place, asked)


def test_a_closed_collection_joins_no_cluster_again(cluster, stored, crops):
    with Collection.open(stored.path, cluster=ClusterSettings(cluster.address)) as collection:
        searcher = collection.searcher()
        searcher.search(crops[0])
    with pytest.raises(ValueError, match="closed"):
        searcher.search(crops[0])
    searcher.close()
