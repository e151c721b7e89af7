"""A real cluster on this machine: a head and nodes as processes."""

import logging
import os
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from imgsim.cluster import ray_cluster


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
    """Return the ids of the processes of which the workers on nodes are children."""
    return {
        each.process.pid
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
