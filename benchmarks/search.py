"""Compare imgsim's exact search with FAISS, usearch and NumPy on the same vectors and threads.

imgsim is asked as its users do: ``Searcher.search_embeddings`` of a collection. For each number of
queries at once: milliseconds a query (median and 95th percentile over calls), how many times as
long as imgsim the peer takes, and how many of the ranks of the first queries differ from those of a
float64 brute-force scan. The peers take turns, so that what else the machine does meets all of
them; each begins its turn with a call that is not timed. Then come single queries, one after the
other with nothing between them, for imgsim also of a few of the vectors: what a call costs. With
--all-pairs, also the nearest others of each of the first vectors, beside ``IndexFlatL2`` doing the
same.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import faiss
import numpy as np
import psutil
from made_up import BATCH, fill
from measure import median, print_table, seconds, write_json
from numpy.typing import NDArray
from usearch.index import MetricKind  # type: ignore[attr-defined] # it does not re-export it
from usearch.index import search as usearch_exact

from imgsim import Collection, Searcher
from imgsim.catalog.catalog import Catalog
from imgsim.index.bounds import TILE, write_bounds
from imgsim.index.distance import distances
from imgsim.index.projection import read_projection
from imgsim.results import SearchStats

Vectors = NDArray[np.float32]
Search = Callable[[Vectors], NDArray[np.int64]]
TURNS = 3
CALLS = {1: 10, 10: 4, 100: 2, 1000: 1}  # in each turn
LEVELS = 8  # of Panorama
FAST = (
    "imgsim",
    "faiss",
    "faiss, PCA and Panorama",
)  # the others take minutes for a thousand queries
CHECKED = 20
ALONE = 500  # single queries, one after the other
FEW = 128, 5_000  # vectors, of which a call costs more than their scan


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", required=True, type=Path, help="a .npy of (n, d) float32")
    parser.add_argument("--queries", type=Path, help="another; else some of the vectors, left out")
    parser.add_argument("--count", type=int, help="use the first so many vectors")
    parser.add_argument("--noise", action="store_true", help="white noise of that shape instead")
    parser.add_argument("--all-pairs", type=int, default=0, help="of the first so many vectors")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    embeddings = np.load(options.vectors)[: options.count]
    if options.queries:
        queries = np.load(options.queries)
    else:
        order = np.random.default_rng(0).permutation(len(embeddings))
        queries, embeddings = embeddings[order[:1_000]], embeddings[np.sort(order[1_000:])]
    if options.noise:
        random = np.random.default_rng(0)
        embeddings = random.standard_normal(embeddings.shape, np.float32)
        queries = random.standard_normal(queries.shape, np.float32)
    with tempfile.TemporaryDirectory(dir=options.vectors.parent) as scratch:
        figures = compare(embeddings, queries, options, Path(scratch))
    if options.all_pairs:
        with tempfile.TemporaryDirectory(dir=options.vectors.parent) as scratch:
            few = np.ascontiguousarray(embeddings[: options.all_pairs])
            figures["all_pairs"] = all_pairs(few, options.k, Path(scratch))
    write_json(options.json, figures)


def compare(
    embeddings: Vectors, queries: Vectors, options: argparse.Namespace, scratch: Path
) -> dict[str, object]:
    """Measure every peer, print the figures and return them."""
    k, (n, dim) = options.k, embeddings.shape
    collection, built = build(embeddings, scratch)
    searcher = collection.searcher()
    peers: dict[str, Search] = {"imgsim": with_imgsim(searcher, k), **others(embeddings, k)}
    truth = [true_ranks(query, embeddings, k) for query in queries[:CHECKED]]
    wrong = {name: wrong_ranks(search, queries, truth) for name, search in peers.items()}
    built |= work(searcher, queries, k)
    times = timed(peers, queries)
    alone = {name: one_after_the_other(peers[name], queries) for name in FAST}
    for count in FEW:
        with stored(embeddings[:count], scratch / str(count)).searcher() as few:
            alone[f"imgsim, {count:,} vectors"] = one_after_the_other(with_imgsim(few, k), queries)
    what = "white noise" if options.noise else options.vectors.name
    print(f"{what}: {n:,} x {dim:,}, k={k}, {os.cpu_count()} threads")
    print("".join(f"{name}: {value:.4g}. " for name, value in built.items()) + "\n")
    rows: list[tuple[object, ...]] = [
        ("peer", "queries at once", "ms a query", "p95", "times imgsim", "wrong")
    ]
    for name, by_count in times.items():
        for at_once, values in by_count.items():
            ratio = median(values) / median(times["imgsim"][at_once])
            p95 = float(np.percentile(values, 95))
            rows.append((name, at_once, median(values), p95, ratio, wrong[name].get(at_once, "")))
    print_table(rows)
    print("\none query after the other: ms, median and p95")
    print_table([("peer", "ms", "p95"), *((name, *values) for name, values in alone.items())])
    figures = {"vectors": what, "n": n, "dim": dim, "k": k, **built, "wrong": wrong}
    return figures | {"ms": times, "ms_one_after_the_other": alone}


def wrong_ranks(search: Search, queries: Vectors, truth: list[NDArray[np.int64]]) -> dict[int, int]:
    """Return how many ranks of the first queries are wrong, alone and among 100."""
    alone = [search(queries[i : i + 1])[0] for i in range(CHECKED)]
    answers = {1: alone, 100: list(search(queries[:100])[:CHECKED])}
    return {
        at_once: sum(int((a != t).sum()) for a, t in zip(found, truth, strict=True))
        for at_once, found in answers.items()
    }


def timed(peers: dict[str, Search], queries: Vectors) -> dict[str, dict[int, list[float]]]:
    """Return the milliseconds a query of each call, for each peer and number at once."""
    times: dict[str, dict[int, list[float]]] = {name: {} for name in peers}
    for at_once, turn in itertools.product(CALLS, range(TURNS)):
        for name, search in peers.items():
            if at_once == 1_000 and name not in FAST:
                continue
            time.sleep(0.3)  # threads of the one before may still be spinning
            search(queries[-1:])
            for call in range(turn * CALLS[at_once], (turn + 1) * CALLS[at_once]):
                part = np.roll(queries, -call * at_once, 0)[:at_once]
                value = 1e3 * seconds_of(search, part) / at_once
                times[name].setdefault(at_once, []).append(value)
    return times


def one_after_the_other(search: Search, queries: Vectors) -> tuple[float, float]:
    """Return the milliseconds of single queries: the median, and the 95th percentile."""
    some = [queries[i % len(queries) :][:1] for i in range(ALONE)]
    time.sleep(0.3)  # threads of the one before may still be spinning
    for query in some[:CHECKED]:
        search(query)
    times = [1e3 * seconds_of(search, query) for query in some]
    return median(times), float(np.percentile(times, 95))


def all_pairs(embeddings: Vectors, k: int, scratch: Path) -> dict[str, float]:
    """Time the k nearest others of every vector; one is the vector itself."""
    searcher = build(embeddings, scratch)[0].searcher()
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(embeddings)
    ours, theirs = with_imgsim(searcher, k + 1), others(embeddings, k + 1)["faiss"]
    ours(embeddings[:100])
    figures = {}
    for name, search in {"imgsim": ours, "faiss": theirs}.items():
        blocks = range(0, len(embeddings), 1_024)  # as an export does
        figures[name] = sum(seconds_of(search, embeddings[at : at + 1_024]) for at in blocks)
    figures["faiss, all at once"] = seconds_of(theirs, embeddings)
    print(f"\nall pairs of {len(embeddings):,}, k={k}: seconds")
    print_table(
        [("peer", "s", "times imgsim")]
        + [(name, value, value / figures["imgsim"]) for name, value in figures.items()]
    )
    return figures


def stored(embeddings: Vectors, folder: Path) -> Collection:
    """Return a collection of them."""
    folder.mkdir(exist_ok=True)
    path = folder / "c.imgsim"
    Collection.open(path, create=True).close()
    with closing(Catalog(path / "catalog.db")) as catalog:
        catalog.add_encoder("0" * 64, embeddings.shape[1])
    starts = range(0, len(embeddings), BATCH)
    fill(path, (embeddings[start : start + BATCH] for start in starts))
    return Collection.open(path)


def build(embeddings: Vectors, scratch: Path) -> tuple[Collection, dict[str, float]]:
    """Store them in a collection, and say what the bounds cost."""
    collection = stored(embeddings, scratch)
    segments = scratch / "c.imgsim" / "segments"
    projection = read_projection(segments / "basis.npz", embeddings.shape[1])
    part = np.ascontiguousarray(embeddings[:BATCH])
    blocks = (part[at : at + TILE] for at in range(0, len(part), TILE))
    writing = seconds(lambda: write_bounds(scratch / "again", len(part), projection, blocks), 1)[0]
    size = sum(file.stat().st_size for file in segments.glob("*.bounds"))
    return collection, {
        "fine": projection.fine,
        "near": projection.near,
        "far": projection.directions.shape[1],
        "bounds_us_a_vector": 1e6 * writing / len(part),
        "bounds_share_of_bytes": size / embeddings.nbytes,
    }


def work(searcher: Searcher, queries: Vectors, k: int) -> dict[str, float]:
    """Return what single queries look at, and what they leave in memory."""
    searcher.search_embeddings(queries[:1], k)
    process = psutil.Process()
    before = process.memory_info()
    stats = SearchStats()
    for number in range(len(queries[:CHECKED])):
        stats += searcher.search_embeddings(queries[number : number + 1], k).stats
    after = process.memory_info()
    resident = after.shared - before.shared
    return {
        "left_by_first_level": stats.first_level / stats.queries,
        "left_by_second_level": stats.second_level / stats.queries,
        "distances": stats.distances / stats.queries,
        "anonymous_mb_grown": (after.rss - before.rss - resident) / 1e6,
    }


def with_imgsim(searcher: Searcher, k: int) -> Search:
    """Return imgsim's search; ids begin with 1."""
    return lambda queries: searcher.search_embeddings(queries, k).ids - 1


def others(embeddings: Vectors, k: int) -> dict[str, Search]:
    """Return the peers."""
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(embeddings)
    everything = faiss.SearchParameters(sel=faiss.IDSelectorAll())  # type: ignore[call-arg] # SWIG
    squares = np.einsum("ij,ij->i", embeddings, embeddings)
    dim = embeddings.shape[1]
    turned = faiss.PCAMatrix(dim, dim)
    turned.train(embeddings[:: max(1, len(embeddings) // 50_000)])
    panorama = faiss.IndexPreTransform(turned, faiss.IndexFlatL2Panorama(dim, LEVELS))
    panorama.add(embeddings)

    def with_numpy(queries: Vectors) -> NDArray[np.int64]:
        found = []
        for query in queries:
            scores = squares - 2 * (embeddings @ query)
            nearest = np.argpartition(scores, k)[:k]
            found.append(nearest[np.argsort(scores[nearest])])
        return np.array(found)

    def with_usearch(queries: Vectors) -> NDArray[np.int64]:
        found = usearch_exact(embeddings, queries, k, MetricKind.L2sq, exact=True, threads=0)
        keys: NDArray[np.int64] = np.atleast_2d(found.keys).astype(np.int64)
        return keys

    return {
        "faiss": lambda q: index.search(q, k)[1],
        "faiss, PCA and Panorama": lambda q: panorama.search(q, k)[1],
        "faiss, IDSelectorAll": lambda q: index.search(q, k, params=everything)[1],
        "usearch": with_usearch,
        "numpy float32": with_numpy,
    }


def true_ranks(query: Vectors, embeddings: Vectors, k: int) -> NDArray[np.int64]:
    """Return the ``k`` nearest by a sort of all float64 distances."""
    starts = range(0, len(embeddings), 1_024)
    true = np.concatenate([distances(query, embeddings[at : at + 1_024]) for at in starts])
    return np.lexsort((np.arange(len(true)), true))[:k]


def seconds_of(search: Search, queries: Vectors) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    search(queries)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
