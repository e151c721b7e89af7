"""Measure what a user gets: the public searcher and the command, beside the bare search.

For each number of images, made-up collections hold embeddings that ``embeddings.py`` wrote, each
repeated with noise of its own, in segments as large as those of a large ingest. In one run, and
taking turns: the bare search for one embedding, ``Searcher.search_embeddings`` for the same, the
encoding of an image, ``Searcher.search`` for the image, and ``imgsim query`` in a process of its
own with the files in the page cache. The targets: ``search`` takes at most 1.5 times the bare
search and the encoding together; the command at the most images at most 1.3 times that at the
fewest, in less than 300 MB besides mapped files.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from made_up import BATCH, fill
from measure import median, print_table, write_json
from numpy.typing import NDArray

from imgsim import Collection

NOISE = 0.3  # length, beside embeddings of length 1
K = 10


def main() -> None:
    """Fill collections, measure each, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--image", required=True, help="the image to query with")
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures: dict[int, dict[str, list[float]]] = {}
    for count in options.counts:
        collection = options.embeddings / f"{count}.imgsim"
        if not collection.exists():
            began = time.perf_counter()
            repeated(collection, options.embeddings, count)
            print(f"{count:,} images stored in {time.perf_counter() - began:.0f} s", flush=True)
        figures[count] = warm(collection, options) | {"opened_ms": opened(collection)}
    commands: dict[int, list[tuple[float, float]]] = {count: [] for count in options.counts}
    for _ in range(options.repeats):
        for count, runs in commands.items():
            runs.append(command(options.embeddings / f"{count}.imgsim", options.image))
    for count, runs in commands.items():
        figures[count] |= {
            "command_s": [seconds for seconds, _ in runs],
            "command_mb": [megabytes for _, megabytes in runs],
        }
    report(figures)
    write_json(options.json, {str(count): values for count, values in figures.items()})


def repeated(collection: Path, source: Path, count: int) -> None:
    """Store ``count`` made-up images, whose embeddings are those of ``source`` with noise."""
    embeddings = np.load(source / "embeddings.npy", mmap_mode="r")
    random = np.random.default_rng(0)
    numbers = (
        np.arange(start, min(start + BATCH, count)) % len(embeddings)
        for start in range(0, count, BATCH)
    )
    scratch = collection.with_suffix(".unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source / "encoder.imgsim", scratch)
    fill(scratch, (noisy(embeddings[some], random) for some in numbers))
    scratch.rename(collection)


def noisy(rows: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return rows (n, d) moved by noise, at unit length."""
    noise = random.standard_normal(rows.shape, np.float32)
    moved = rows + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    unit: NDArray[np.float32] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return unit


def opened(path: Path) -> list[float]:
    """Return the milliseconds that it takes to open a searcher, five times."""

    def work() -> None:
        with Collection.open(path) as collection, collection.searcher():
            pass

    return [milliseconds(work) for _ in range(5)]


def warm(path: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the milliseconds of each kind of search, in turns."""
    queries = np.load(options.embeddings / "queries.npy")
    with Collection.open(path) as collection, collection.searcher() as searcher:
        directory = collection._directory  # the bare search has no public face
        with directory.reading() as snapshot, directory.gallery(snapshot) as gallery:
            gallery.search(queries[:64], K)  # loads the compiled scans where they pay
            embedding = collection.embed([options.image])
            work: dict[str, Callable[[], object]] = {
                "bare_ms": lambda: gallery.search(embedding, K),
                "search_embeddings_ms": lambda: searcher.search_embeddings(embedding, K),
                "encode_ms": lambda: collection.embed([options.image]),
                "search_ms": lambda: searcher.search([options.image], K),
            }
            for each in work.values():
                each()
            turns = [
                [milliseconds(each) for each in work.values()] for _ in range(5 * options.repeats)
            ]
            return dict(zip(work, map(list, zip(*turns, strict=True)), strict=True))


def milliseconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def command(collection: Path, image: str) -> tuple[float, float]:
    """Return the seconds of a cold query, and the most MB that it had besides mapped files."""
    program = str(Path(sys.executable).with_name("imgsim"))
    arguments = ["-c", str(collection), "query", image, "-k", str(K), "--format", "paths"]
    most, began = 0, time.perf_counter()
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = status.read_text().splitlines()
            most = max([most, *(int(line.split()[1]) for line in lines if "RssAnon" in line)])
            time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"imgsim query exits with {process.returncode}")
    return time.perf_counter() - began, most / 1e3


def report(figures: dict[int, dict[str, list[float]]]) -> None:
    """Print the medians, and the ratios that have targets."""
    names = list(next(iter(figures.values())))
    rows: list[tuple[object, ...]] = [("images", *names, "search / (bare + encode)")]
    for count, values in figures.items():
        medians = {name: median(values[name]) for name in names}
        ratio = medians["search_ms"] / (medians["bare_ms"] + medians["encode_ms"])
        rows.append((f"{count:,}", *medians.values(), ratio))
    print_table(rows)
    few, many = min(figures), max(figures)
    cold = median(figures[many]["command_s"]) / median(figures[few]["command_s"])
    print(f"\ncold command at {many:,} images / at {few:,}: {cold:.2f}")


if __name__ == "__main__":
    main()
