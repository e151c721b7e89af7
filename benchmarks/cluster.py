"""Measure a collection searched by workers of Ray on this machine, beside one process.

The first embeddings of those that ``embeddings.py`` wrote are stored in segments of one size.
``Searcher.search_embeddings`` answers the same queries for one process and on a cluster, in turns,
with 1, 2 and 4 shards; every answer is compared, id by id and bit by bit.
"""

import argparse
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import ray
from made_up import fill
from measure import median, print_table, write_json
from numpy.typing import NDArray

from imgsim import ClusterSettings, Collection, Searcher

K = 10
AT_ONCE = 1, 10, 100, 1_000
SHARDS = 1, 2, 4
SEGMENT = 25_000  # images, so that shards are of one size


def main() -> None:
    """Store, join, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = np.load(options.embeddings / "embeddings.npy", mmap_mode="r")[: options.count]
    queries = np.load(options.embeddings / "queries.npy")[: max(AT_ONCE)]
    ray.init("local", num_cpus=sum(SHARDS), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        path = Path(scratch) / "c.imgsim"
        shutil.copytree(options.embeddings / "encoder.imgsim", path)
        fill(path, (rows[at : at + SEGMENT] for at in range(0, len(rows), SEGMENT)))
        searchers = {"one process": opened.enter_context(Collection.open(path).searcher())}
        for shards in SHARDS:
            settings = ClusterSettings("local", shards)
            collection = opened.enter_context(Collection.open(path, cluster=settings))
            searchers[f"{shards} shards"] = opened.enter_context(collection.searcher())
        times, wrong = measured(searchers, queries, options.repeats)
        memory = resident()
    figures = {name: {n: median(ms) for n, ms in each.items()} for name, each in times.items()}
    print(f"{rows.shape[0]:,} x {rows.shape[1]}, k={K}; ms a query; {wrong} answers differ\n")
    print_table(
        [("at once", *map(str, AT_ONCE))]
        + [(name, *(each[n] for n in AT_ONCE)) for name, each in figures.items()]
    )
    print(f"\nMB besides mapped files: {memory}")
    write_json(options.json, {"ms": figures, "differ": wrong, "mb": memory})


def measured(
    searchers: dict[str, Searcher], queries: NDArray[np.float32], repeats: int
) -> tuple[dict[str, dict[int, list[float]]], int]:
    """Return milliseconds a query by searcher and how many at once, and how many answers differ."""
    times = {name: {n: list[float]() for n in AT_ONCE} for name in searchers}
    wrong = 0
    for searcher in searchers.values():
        searcher.search_embeddings(queries, k=K)  # from now on with compiled scans
    for n in AT_ONCE:
        for number in range(repeats + 1):
            start = number * n % (len(queries) - n + 1)
            expected = None
            for name, searcher in searchers.items():
                began = time.perf_counter()
                found = searcher.search_embeddings(queries[start : start + n], k=K)
                took = 1e3 * (time.perf_counter() - began) / n
                if number:
                    times[name][n].append(took)
                expected = expected or found
                wrong += not np.array_equal(found.ids, expected.ids)
                wrong += not np.array_equal(found.distances, expected.distances)
    return times, wrong


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
