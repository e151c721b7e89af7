"""Kill nodes of a Ray cluster in the midst of each kind of work, and compare what comes of it.

A head without cores and four nodes with one each, as processes of this machine; three shards. The
first embeddings of those that ``embeddings.py`` wrote are searched for one query, 100 and 1,000;
lists of neighbours are made of fewer; pictures are ingested. At a random moment a node that has a
worker gets SIGKILL; another joins when the work is done. What comes of it is compared with what one
process gives, id by id and bit by bit. With ``--joined``, lists are made of so many instead: by one
process; searched for by workers and written by this process; written by workers; and once more
while nodes are killed one after the other and others join.
"""

import argparse
import hashlib
import logging
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from made_up import stored
from measure import median, print_table, write_json
from numpy.typing import NDArray
from ray import cluster_utils

from imgsim import ClusterSettings, Collection, Searcher

SHARDS = 3
WORKERS = "ray::Shard", "ray::_encoded"  # what their processes are called
AT_ONCE = 1, 100, 1_000
MISSED = {  # a node after 8 s, not 16
    "health_check_initial_delay_ms": 1_000,
    "health_check_period_ms": 1_000,
    "health_check_failure_threshold": 8,
}


Work = tuple[Callable[[], object], object]
"""What is done on the cluster, and what one process gives."""


def main() -> None:
    """Kill, compare, say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--images", type=Path, nargs="*", default=[])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=25_000, help="whose neighbours are listed")
    parser.add_argument("--pictures", type=int, default=5_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--joined", type=int, default=0, help="whose neighbours are listed instead")
    parser.add_argument("--work", default="", help="only what is called so")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = np.load(options.embeddings / "embeddings.npy", mmap_mode="r")
    queries = np.load(options.embeddings / "queries.npy")[: max(AT_ONCE)]
    encoder = options.embeddings / "encoder.imgsim"
    with tempfile.TemporaryDirectory() as scratch, closing(Nodes()) as nodes:
        if options.joined:
            path = stored(Path(scratch) / "joined", encoder, rows[: options.joined])
            figures = {
                f"neighbours of {options.joined:,}": killed_often(nodes, path, options.kills)
            }
        else:
            many, few = (
                stored(Path(scratch) / str(count), encoder, rows[:count])
                for count in (options.count, options.pairs)
            )
            work = searches(many, queries, nodes)
            work[f"neighbours of {options.pairs:,}"] = lists(few, nodes)
            paths = pictures(options.images, options.pictures)
            work[f"ingest of {options.pictures:,}"] = ingest(Path(scratch), encoder, paths, nodes)
            figures = {
                name: killed(nodes, run, expected, options.kills)
                for name, (run, expected) in work.items()
                if options.work in name
            }
    print_table(
        [("work", "kills", "differ", "s undisturbed", "s with a node killed", "most")]
        + [
            (
                name,
                len(each.get("killed_after_s", each["s"])),
                each["differ"],
                each["alone"],
                median(each["s"]),
                max(each["s"]),
            )
            for name, each in figures.items()
        ]
    )
    write_json(options.json, {**figures})


class Nodes:
    """A cluster that this process has joined."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        head = {"num_cpus": 0, "_system_config": MISSED}
        self._cluster: Any = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        for _ in range(SHARDS + 1):
            self._cluster.add_node(num_cpus=1)
        self.address: str = self._cluster.address
        ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR)

    def kill_one(self, done: threading.Event) -> bool:
        """Kill a node with a worker that searches or encodes, as soon as there is one.

        Returns False if all is done before.
        """
        while not done.is_set():
            found = [each.info for each in psutil.process_iter(["cmdline", "ppid"])]
            named = [each for each in found if each["cmdline"]]
            parents = {each["ppid"] for each in named if each["cmdline"][0].startswith(WORKERS)}
            for node in self._cluster.list_all_nodes()[1:]:
                if parents & {each.process.pid for each in node.all_processes["raylet"]}:
                    self._cluster.remove_node(node, allow_graceful=False)
                    return True
            time.sleep(0.01)
        return False

    def add_one(self) -> None:
        """Let a node join."""
        self._cluster.add_node(num_cpus=1)
        self._cluster.wait_for_nodes()

    def close(self) -> None:
        """End all."""
        ray.shutdown()
        self._cluster.shutdown()


def pictures(folders: list[Path], count: int) -> list[str]:
    """Return the paths of some pictures."""
    found = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in found if path.suffix.lower() in {".jpg", ".jpeg", ".png"}][:count]


def searches(path: Path, queries: NDArray[np.float32], nodes: Nodes) -> dict[str, Work]:
    """Return the searches, for which workers are started each time, and their answers."""

    def answer(searcher: Searcher, n: int) -> tuple[bytes, bytes]:
        found = searcher.search_embeddings(queries[:n])
        return found.ids.tobytes(), found.distances.tobytes()

    def run(n: int) -> tuple[bytes, bytes]:
        settings = ClusterSettings(nodes.address, SHARDS)
        with Collection.open(path, cluster=settings) as collection, ExitStack() as opened:
            searcher = opened.enter_context(collection.searcher())
            until = time.monotonic() + 4
            while True:
                found = answer(searcher, n)
                if time.monotonic() > until or found != answer(searcher, n):
                    return found

    with Collection.open(path) as collection, collection.searcher() as searcher:
        return {f"search for {n:,}": (partial(run, n), answer(searcher, n)) for n in AT_ONCE}


def lists(path: Path, nodes: Nodes) -> Work:
    """Return how lists of neighbours are made, and what they should be."""
    settings = ClusterSettings(nodes.address, SHARDS)
    return partial(listed, path, settings), listed(path, None)


def listed(path: Path, settings: ClusterSettings | None) -> str:
    """Return a digest of the neighbours of all images."""
    digest = hashlib.sha256()
    with Collection.open(path, cluster=settings) as collection:
        for row in collection.neighbours(10):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def ingest(scratch: Path, encoder: Path, paths: list[str], nodes: Nodes) -> Work:
    """Return how pictures are ingested, and what should be stored then."""

    def run(settings: ClusterSettings | None) -> tuple[bytes, list[str]]:
        path = scratch / "ingested"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(encoder, path)
        with Collection.open(path, cluster=settings) as collection:
            collection.ingest(paths)
            collection.export_embeddings(scratch / "rows.npz")
        with np.load(scratch / "rows.npz") as rows:
            return rows["embedding"].tobytes(), rows["path"].tolist()

    return lambda: run(ClusterSettings(nodes.address)), run(None)


def killed(nodes: Nodes, run: Callable[[], object], expected: object, kills: int) -> dict[str, Any]:
    """Do some work again and again, and kill a node each time."""
    began = time.monotonic()
    differ = int(run() != expected)
    alone = time.monotonic() - began
    times = []
    for number in range(kills):
        moment, done = random.Random(number).uniform(0.1, 0.6) * alone, threading.Event()

        def kill(moment: float = moment, done: threading.Event = done) -> None:
            time.sleep(moment)
            nodes.kill_one(done)

        thread = threading.Thread(target=kill)
        began = time.monotonic()
        thread.start()
        differ += int(run() != expected)
        times.append(time.monotonic() - began)
        done.set()
        thread.join()
        nodes.add_one()
        print(f"kill {number}: {times[-1]:.1f} s, {differ} differ", flush=True)
    return {"alone": alone, "s": times, "differ": differ}


def killed_often(nodes: Nodes, path: Path, kills: int) -> dict[str, Any]:
    """Write lists of neighbours in four ways, the last while nodes are killed in turn."""
    settings, seconds = ClusterSettings(nodes.address, SHARDS), []

    def timed(name: str, where: str, how: ClusterSettings | None) -> pa.Table:
        folder = path.with_name(name.replace(" ", "-"))
        began = time.monotonic()
        with Collection.open(path, cluster=how) as collection:
            collection.export_neighbours(f"{where}{folder}", 10)
        seconds.append(time.monotonic() - began)
        print(f"neighbours, {name}: {seconds[-1]:.1f} s", flush=True)
        return pq.read_table(folder)

    expected = timed("one process", "", None)
    searched = timed("workers search", "", settings)
    written = timed("workers write", "file://", settings)
    moments, began = list[int](), time.monotonic()
    with ThreadPoolExecutor(1) as thread:  # nodes are started by the main thread
        found = thread.submit(timed, "workers write and die", "file://", settings)
        done = threading.Event()
        found.add_done_callback(lambda _: done.set())
        while len(moments) < kills and not done.wait(seconds[2] / (kills + 1)):
            if nodes.kill_one(done):
                moments.append(round(time.monotonic() - began))
                nodes.add_one()
    differ = sum(not each.equals(expected) for each in (searched, written, found.result()))
    print(f"nodes killed after {moments} s")
    return {
        "one process": seconds[0],
        "workers search": seconds[1],
        "alone": seconds[2],
        "s": seconds[3:],
        "killed_after_s": moments,
        "differ": differ,
    }


if __name__ == "__main__":
    main()
