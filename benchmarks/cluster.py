"""Measure a collection that workers of Ray search and ingest on this machine, beside one process.

The first embeddings of those that ``embeddings.py`` wrote are stored in segments of one size.
``Searcher.search_embeddings`` answers the same queries for one process and on a cluster, with 1, 2
and 4 shards, and with candidates from a Milvus server if one starts, in turns with FAISS's
``IndexFlatL2``. Every answer of imgsim is compared, id by id and bit by bit. With ``--images``,
these are also ingested, by one process and by workers, as a command of its own each. With
``--alone``, there is neither Milvus nor FAISS.

Where many queries are searched for at once, shards are asked in two rounds; "one round" is without.
Ray's timeline says how long the slowest worker took for a query, and so what comes on top. What
one process takes for half of the embeddings, and what one shard adds to that of all, gives what two
machines would take: that is computed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import faiss
import numpy as np
import psutil
import ray
from made_up import stored
from measure import median, print_table, write_json
from numpy.typing import NDArray

from imgsim import ClusterSettings, Collection, MilvusSettings, Searcher
from imgsim.cluster import gallery

K = 10
AT_ONCE = 1, 10, 100, 1_000
SHARDS = 1, 2, 4
INGESTS = 3

HALF = "one process, half of them"

Search = Callable[[NDArray[np.float32]], object]
Span = tuple[float, float]
"""When something began and ended, in seconds."""


def arguments() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--images", type=Path, nargs="*", default=[])
    parser.add_argument("--alone", action="store_true", help="without Milvus and FAISS")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """Store, join, search, compare; ingest."""
    options = arguments()
    rows = np.load(options.embeddings / "embeddings.npy", mmap_mode="r")[: options.count]
    queries = np.load(options.embeddings / "queries.npy")[: max(AT_ONCE)]
    encoder = options.embeddings / "encoder.imgsim"
    ingests = ingested(encoder, options.images) if options.images else {}
    ray.init("local", num_cpus=sum(SHARDS), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        path = stored(Path(scratch) / "c.imgsim", encoder, rows)
        searchers = opened_searchers(path, opened)
        half = stored(Path(scratch) / "half.imgsim", encoder, rows[: len(rows) // 2])
        fewer = opened.enter_context(Collection.open(half).searcher())
        peers: dict[str, Search] = {HALF: lambda q: fewer.search_embeddings(q, k=K)}
        for shards in SHARDS[1:]:
            peers[f"{shards} shards, one round"] = one_round(searchers[f"{shards} shards"])
        if not options.alone:
            server = opened.enter_context(milvus(Path(scratch) / "milvus"))
            if server is not None:
                opened.enter_context(Collection.open(path)).export_milvus(server)
                collection = opened.enter_context(Collection.open(path, cluster=server))
                searchers["Milvus, ranked by imgsim"] = opened.enter_context(collection.searcher())
            index = faiss.IndexFlatL2(rows.shape[1])
            index.add(np.ascontiguousarray(rows))
            peers["faiss"] = lambda q: index.search(q, K)
        calls, wrong = measured(searchers, peers, queries, options)
        memory = resident()
        besides = besides_the_slowest(calls)
    figures = milliseconds(calls)
    print(f"{rows.shape[0]:,} x {rows.shape[1]}, k={K}; ms a query; {wrong} answers differ\n")
    print_table(
        [("at once", *map(str, AT_ONCE))]
        + [(name, *(each[n] for n in AT_ONCE)) for name, each in figures.items()]
    )
    print("\nbesides the slowest shard: ms a call, median and most")
    print_table(
        [("at once", *map(str, AT_ONCE))]
        + [(name, *(spread(each[n]) for n in AT_ONCE)) for name, each in besides.items()]
    )
    print(f"\nMB besides mapped files: {memory}")
    print("".join(f"ingest, {name}: {median(s):.1f} s\n" for name, s in ingests.items()))
    found = {"ms": figures, "ms_besides_the_slowest_shard": besides, "differ": wrong}
    write_json(options.json, found | {"mb": memory, "ingest_s": {**ingests}})


def milliseconds(calls: dict[str, dict[int, list[Span]]]) -> dict[str, dict[int, float]]:
    """Return the medians a query, also those computed of two machines."""
    figures = {
        name: {n: median([1e3 * (end - began) / n for began, end in each[n]]) for n in AT_ONCE}
        for name, each in calls.items()
    }
    one, shard, half = figures["one process"], figures["1 shards"], figures[HALF]
    return figures | {"two machines, computed": {n: half[n] + shard[n] - one[n] for n in AT_ONCE}}


def spread(values: list[float]) -> str:
    """Return the median and the most of some values."""
    return f"{median(values):.1f}, {max(values):.1f}" if values else ""


def opened_searchers(path: Path, opened: ExitStack) -> dict[str, Searcher]:
    """Return what searches the collection: one process, and as many shards as there shall be."""
    searchers = {"one process": opened.enter_context(Collection.open(path).searcher())}
    for shards in SHARDS:
        settings = ClusterSettings("local", shards)
        collection = opened.enter_context(Collection.open(path, cluster=settings))
        searchers[f"{shards} shards"] = opened.enter_context(collection.searcher())
    return searchers


def one_round(searcher: Searcher) -> Search:
    """Return what asks all shards at once, however many queries there are."""

    def search(queries: NDArray[np.float32]) -> object:
        with patch.object(gallery, "_SHARE", sys.maxsize):
            return searcher.search_embeddings(queries, k=K)

    return search


def ingested(encoder: Path, images: list[Path]) -> dict[str, list[float]]:
    """Return how long commands took that ingest images, in turns."""
    times: dict[str, list[float]] = {"one process": [], "workers": []}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "c.imgsim"
        for _ in range(INGESTS):
            for name, values in times.items():
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(encoder, path)
                how = ["--cluster", "local"] if name == "workers" else []
                command: list[str | Path] = [
                    sys.executable,
                    "-m",
                    "imgsim",
                    "-q",
                    "-c",
                    path,
                    *how,
                    "ingest",
                    *images,
                ]
                began = time.perf_counter()
                subprocess.run(command, check=True)
                values.append(time.perf_counter() - began)
    return times


@contextmanager
def milvus(folder: Path) -> Iterator[MilvusSettings | None]:
    """Run a Milvus server, where one is installed and starts."""
    try:
        from milvus import MilvusServer  # noqa: PLC0415 - it may not be there
    except ImportError:
        yield None
        return
    server = MilvusServer()
    server.set_base_dir(str(folder))
    server.start()
    try:
        yield MilvusSettings(f"http://127.0.0.1:{server.listen_port}")
    finally:
        server.stop()


def measured(
    searchers: dict[str, Searcher],
    peers: dict[str, Search],
    queries: NDArray[np.float32],
    options: argparse.Namespace,
) -> tuple[dict[str, dict[int, list[Span]]], int]:
    """Return the calls by searcher and how many at once, and how many answers differ."""
    calls = {name: {n: list[Span]() for n in AT_ONCE} for name in (*searchers, *peers)}
    wrong = 0
    for search in (*(each.search_embeddings for each in searchers.values()), *peers.values()):
        search(queries)  # from now on with compiled scans
    for n in AT_ONCE:
        for number in range(options.repeats + 1):
            start = number * n % (len(queries) - n + 1)
            part, expected = queries[start : start + n], None
            for name, searcher in searchers.items():
                began = time.time()
                found = searcher.search_embeddings(part, k=K)
                calls[name][n] += [(began, time.time())] * bool(number)
                expected = expected or found
                wrong += not np.array_equal(found.ids, expected.ids)
                wrong += not np.array_equal(found.distances, expected.distances)
            for name, search in peers.items():
                began = time.time()
                search(part)
                calls[name][n] += [(began, time.time())] * bool(number)
    return calls, wrong


def besides_the_slowest(
    calls: dict[str, dict[int, list[Span]]],
) -> dict[str, dict[int, list[float]]]:
    """Return the milliseconds of calls by shards and how many at once, less the slowest one's."""
    time.sleep(5)  # until workers have told
    searched = sorted(
        (event["ts"] / 1e6, event["dur"] / 1e6)
        for event in ray.timeline()
        if event["cat"].startswith("task:") and event["name"].endswith("search")
    )
    besides: dict[str, dict[int, list[float]]] = {}
    for name, each in calls.items():
        if not name.endswith("shards"):
            continue
        besides[name] = {n: [] for n in AT_ONCE}
        for n, spans in each.items():
            for began, end in spans:
                took = [seconds for at, seconds in searched if began <= at <= end]
                shards = int(name.split()[0])
                rounds = [took[at : at + shards] for at in range(0, len(took), shards)]
                if len(took) == shards * (
                    1 + (n >= gallery._SHARE * shards > gallery._SHARE)
                ):  # Ray may have lost some
                    besides[name][n].append(1e3 * (end - began - sum(map(max, rounds))))
    return besides


def resident() -> dict[str, float]:
    """Return the memory of this process, and of all workers with embeddings."""
    workers = [
        each
        for each in psutil.process_iter(["cmdline"])
        if each.info["cmdline"] and each.info["cmdline"][0].startswith("ray::Shard")
    ]
    own = {"driver": [psutil.Process()], "workers": workers}
    return {
        name: sum(each.memory_info().rss - each.memory_info().shared for each in found) / 1e6
        for name, found in own.items()
    }


if __name__ == "__main__":
    main()
