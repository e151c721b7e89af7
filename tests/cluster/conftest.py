"""A real cluster on this machine: a head and nodes as processes."""

import logging
import os
import shutil
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from imgsim import BatchLimits, Collection, IngestSettings
from imgsim.cluster import ray_cluster
from tests.conftest import make_collection


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """A head that does no work, and two nodes with a core each, with a cache of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    former = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    soon = {"health_check_initial_delay_ms": 1_000, "health_check_period_ms": 1_000}
    soon["health_check_failure_threshold"] = 8  # a node that was killed is missed in seconds
    soon["worker_niceness"] = 0  # or other tests stop the workers
    head = {"num_cpus": 0, "_system_config": soon}
    running = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        running.add_node(num_cpus=1)
    ray.init(running.address, log_to_driver=False, logging_level=logging.ERROR)
    yield running
    ray.shutdown()
    running.shutdown()
    del os.environ["XDG_CACHE_HOME"]
    if former is not None:
        os.environ["XDG_CACHE_HOME"] = former


@pytest.fixture(scope="module")
def stored(tmp_path_factory, crops) -> Iterator[Collection]:
    """Thirty-six photographs and copies of some, in seven segments; some are gone again."""
    folder = tmp_path_factory.mktemp("stored")
    for number, path in enumerate(crops[:12]):
        shutil.copy(path, folder / f"copy-\udcff-{number}.jpg")
    with Collection.open(make_collection(folder / "c")) as collection:
        collection.ingest(crops)
        collection.remove(crops[20:23])
        collection.ingest(folder, IngestSettings(batch=BatchLimits(images=2)))
        assert collection.info().segments == 7
        yield collection


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Whatever hangs ends soon."""
    monkeypatch.setattr(ray_cluster, "PATIENCE", 60.0)


@pytest.fixture(autouse=True)
def seen(request):
    """What an earlier test has killed is known to be dead, and no worker waits for a core of it."""
    if "cluster" in request.fixturenames:
        nodes = request.getfixturevalue("cluster").list_all_nodes()
        eventually(lambda: sum(node["Alive"] for node in ray.nodes()) == len(nodes))
        eventually(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


def raylets_of(cluster):
    """Return the nodes, by the ids of the processes of which the workers on them are children."""
    return {
        each.process.pid: node
        for node in cluster.list_all_nodes()
        for each in node.all_processes.get("raylet", [])
    }


def workers_of(cluster, name):
    """Return the workers on nodes of the cluster whose process is called so."""
    raylets = raylets_of(cluster)
    named = (each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"])
    found = [each for each in named if each.info["cmdline"][0].startswith(f"ray::{name}")]
    return [each for each in found if each.ppid() in raylets]


def eventually(holds):
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
