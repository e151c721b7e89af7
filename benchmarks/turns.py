"""Measure searches beside another commit: two processes, one of each checkout, take turns.

Both are asked by ``Searcher.search_embeddings`` over collections that they fill with the same
embeddings. ``embeddings.py`` of the older checkout has to write these, as an older imgsim refuses a
newer collection. The other checkout must run with the libraries that are installed here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from made_up import BATCH, fill
from measure import median, print_table, write_json

from imgsim import Collection

HERE = Path(__file__).parents[1]
CALLS = {1: 30, 10: 6, 100: 3, 1_000: 1}  # of a turn, by queries at once
K = 10


class Side:
    """A process that searches when it is told to, with the imgsim of a checkout."""

    def __init__(self, checkout: Path, source: Path, collection: Path) -> None:
        arguments = "--embeddings", str(source), "--serve", str(collection)
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(checkout)},
        )
        if self._line() != "ready":
            raise SystemExit(f"{checkout}: cannot be measured")

    def milliseconds(self, count: int) -> list[float]:
        """Return the milliseconds a query of some calls with so many queries each."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return [*map(float, self._line().split())]

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline()
        return line.strip()


def main() -> None:
    """Ask both in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", required=True, type=Path, help="what embeddings.py wrote")
    parser.add_argument("--other", type=Path, help="a checkout of another commit")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--serve", type=Path, help="for the processes: the collection to make")
    options = parser.parse_args()
    if options.serve:
        serve(options.embeddings, options.serve)
        return
    if options.other is None:
        parser.error("--other is needed")
    checkouts = {"this": HERE, "other": options.other.resolve()}
    times: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.embeddings) as scratch, ExitStack() as ending:
        sides = {}
        for name, checkout in checkouts.items():
            sides[name] = Side(checkout, options.embeddings, Path(scratch) / f"{name}.imgsim")
            ending.callback(sides[name].close)
        for count in CALLS:
            taken: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(options.turns):
                for name in sorted(sides, reverse=bool(turn % 2)):
                    taken[name] += sides[name].milliseconds(count)
            times[count] = taken
    rows = [
        (count, *medians, medians[1] / medians[0])
        for count, taken in times.items()
        for medians in [[median(some) for some in taken.values()]]
    ]
    print_table(
        [("at once", *(f"{name}, ms a query" for name in checkouts), "other / this"), *rows]
    )
    write_json(options.json, {"milliseconds": times})


def serve(source: Path, path: Path) -> None:
    """Fill a collection, and search in it for as many queries at once as each line says."""
    embeddings = np.load(source / "embeddings.npy", mmap_mode="r")
    queries = np.load(source / "queries.npy")
    shutil.copytree(source / "encoder.imgsim", path)
    starts = range(0, len(embeddings), BATCH)
    fill(path, (np.ascontiguousarray(embeddings[start : start + BATCH]) for start in starts))
    with Collection.open(path) as collection, collection.searcher() as searcher:
        print("ready", flush=True)
        for line in sys.stdin:
            count, taken = int(line), []
            searcher.search_embeddings(queries[:count], K)  # warm
            for call in range(CALLS[count]):
                start = call * count % max(1, len(queries) - count + 1)
                began = time.perf_counter()
                searcher.search_embeddings(queries[start : start + count], K)
                taken.append(1e3 * (time.perf_counter() - began) / count)
            print(*taken, flush=True)


if __name__ == "__main__":
    main()
