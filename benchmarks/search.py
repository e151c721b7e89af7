"""Compare imgsim's exact search with FAISS, usearch and NumPy on the same vectors and threads.

For each number of queries at once: milliseconds a query (median and 95th percentile over calls),
how many times as long as imgsim the peer takes, and how many of the ranks of the first queries
differ from those of the float64 brute-force scan.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import psutil
from measure import median, print_table, write_json
from numpy.typing import NDArray
from usearch.index import MetricKind  # type: ignore[attr-defined] # it does not re-export it
from usearch.index import search as usearch_exact

from imgsim.bounds import Bounds, fit_basis, sample_size, write_bounds
from imgsim.exact import scan
from imgsim.search import Searcher, SearchStats, Source
from imgsim.vectors import MappedVectors, write_segment

Vectors = NDArray[np.float32]
Search = Callable[[Vectors], NDArray[np.int64]]
CALLS = {1: 30, 10: 10, 100: 4, 1000: 1}
FAST = ("imgsim", "faiss")  # the others take minutes for a thousand queries
CHECKED = 20
SEGMENT = 65_536


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", required=True, type=Path, help="a .npy of (n, d) float32")
    parser.add_argument("--queries", required=True, type=Path, help="a .npy of (q, d) float32")
    parser.add_argument("--count", type=int, help="use the first so many vectors")
    parser.add_argument(
        "--noise", action="store_true", help="white noise of the same shape instead"
    )
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    vectors = np.load(options.vectors)[: options.count]
    queries = np.load(options.queries)
    if options.noise:
        random = np.random.default_rng(0)
        vectors = random.standard_normal(vectors.shape, np.float32)
        queries = random.standard_normal(queries.shape, np.float32)
    with tempfile.TemporaryDirectory(dir=options.vectors.parent) as scratch:
        compare(vectors, queries, options, Path(scratch))


def compare(vectors: Vectors, queries: Vectors, options: argparse.Namespace, scratch: Path) -> None:
    """Measure every peer and print the figures."""
    k = options.k
    searcher, built = build(vectors, scratch)
    peers: dict[str, Search] = {
        "imgsim": lambda q: np.array([ids for ids, _ in searcher.nearest(q, k)]),
        **others(vectors, k),
    }
    truth = np.array([ids for ids, _ in scan(queries[:CHECKED], blocks(vectors), k)])
    wrong = {
        name: sum(int((search(queries[i : i + 1]) != truth[i]).sum()) for i in range(CHECKED))
        for name, search in peers.items()
    }
    times = {name: timed(name, search, queries) for name, search in peers.items()}
    report(vectors, options, built, times, wrong)


def timed(name: str, search: Search, queries: Vectors) -> dict[int, list[float]]:
    """Return the milliseconds a query of each call, for each number of queries at once."""
    search(queries[:1])
    times = {}
    for at_once, calls in CALLS.items():
        if at_once < 1_000 or name in FAST:
            parts = (np.roll(queries, -call * at_once, 0)[:at_once] for call in range(calls))
            times[at_once] = [1e3 * seconds_of(search, part) / at_once for part in parts]
    return times


def report(
    vectors: Vectors,
    options: argparse.Namespace,
    built: dict[str, float],
    times: dict[str, dict[int, list[float]]],
    wrong: dict[str, int],
) -> None:
    """Print the tables and write the JSON."""
    n, dim = vectors.shape
    what = "white noise" if options.noise else options.vectors.name
    print(f"{what}: {n:,} x {dim:,}, k={options.k}, {os.cpu_count()} threads")
    print("".join(f"{name}: {value:.4g}. " for name, value in built.items()) + "\n")
    rows: list[tuple[object, ...]] = [
        ("peer", "queries at once", "ms a query", "p95", "times imgsim", "wrong ranks")
    ]
    for name, by_count in times.items():
        for at_once, values in by_count.items():
            ratio = median(values) / median(times["imgsim"][at_once])
            p95 = float(np.percentile(values, 95))
            rows.append((name, at_once, median(values), p95, ratio, wrong[name]))
    print_table(rows)
    write_json(
        options.json,
        {"vectors": what, "n": n, "dim": dim, "k": options.k, **built, "ms": times, "wrong": wrong},
    )


def build(vectors: Vectors, scratch: Path) -> tuple[Searcher, dict[str, float]]:
    """Write segments and bounds as an ingest does, and say what the bounds cost."""
    n, dim = vectors.shape
    began = time.perf_counter()
    basis = fit_basis(np.ascontiguousarray(vectors[:: max(1, -(-n // sample_size(dim)))]))
    fitted = time.perf_counter() - began
    sources, projecting, size = [], 0.0, 0
    for start in range(0, n, SEGMENT):
        part = vectors[start : start + SEGMENT]
        path = scratch / f"{start}.faiss"
        write_segment(path, part)
        mapped = MappedVectors(path, len(part), dim)
        bounds = None
        if basis.near:
            began = time.perf_counter()
            target = path.with_suffix(".bounds")
            write_bounds(target, len(part), basis, (rows for _, rows in mapped.blocks()))
            projecting += time.perf_counter() - began
            size += target.stat().st_size
            bounds = Bounds(target, len(part), basis)
        sources.append(Source(np.arange(start, start + len(part)), mapped, bounds))
    searcher = Searcher(sources, basis)
    before = anonymous_memory()
    query = np.ascontiguousarray(vectors[:1])
    searcher.nearest(query, 10)
    searcher.stats = SearchStats()
    built = {
        "near": basis.near,
        "far": basis.directions.shape[1],
        "fit_seconds": fitted,
        "bounds_us_a_vector": 1e6 * projecting / n,
        "bounds_share_of_bytes": size / vectors.nbytes,
        "anonymous_mb_of_one_query": (anonymous_memory() - before) / 1e6,
    }
    return searcher, built


def others(vectors: Vectors, k: int) -> dict[str, Search]:
    """Return the peers."""
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    everything = faiss.SearchParameters(sel=faiss.IDSelectorAll())  # type: ignore[call-arg] # SWIG
    squares = np.einsum("ij,ij->i", vectors, vectors)

    def with_numpy(queries: Vectors) -> NDArray[np.int64]:
        found = []
        for query in queries:
            scores = squares - 2 * (vectors @ query)
            nearest = np.argpartition(scores, k)[:k]
            found.append(nearest[np.argsort(scores[nearest])])
        return np.array(found)

    def with_usearch(queries: Vectors) -> NDArray[np.int64]:
        found = usearch_exact(vectors, queries, k, MetricKind.L2sq, exact=True, threads=0)
        keys: NDArray[np.int64] = np.atleast_2d(found.keys).astype(np.int64)
        return keys

    return {
        "faiss": lambda q: index.search(q, k)[1],
        "faiss, IDSelectorAll": lambda q: index.search(q, k, params=everything)[1],
        "usearch": with_usearch,
        "numpy float32": with_numpy,
    }


def blocks(vectors: Vectors) -> list[tuple[NDArray[np.int64], Vectors]]:
    """Cut the vectors for the float64 scan."""
    starts = range(0, len(vectors), 1_024)
    return [(np.arange(s, min(s + 1_024, len(vectors))), vectors[s : s + 1_024]) for s in starts]


def seconds_of(search: Search, queries: Vectors) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    search(queries)
    return time.perf_counter() - began


def anonymous_memory() -> int:
    """Return the bytes of this process that no file backs."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


if __name__ == "__main__":
    main()
