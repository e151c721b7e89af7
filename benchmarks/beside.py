"""Measure ingest beside another commit: the two checkouts take turns on the same files.

The other checkout must run with the libraries that are installed here. Both train an encoder of
the default recipe, ingest the same files into a new collection, and ingest them once more, when
nothing has changed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ingest import RUN, copies
from measure import median, print_table, write_json

from imgsim.images.decode import sorted_out
from imgsim.images.scan import find

HERE = Path(__file__).parents[1]
FIGURES = "ingest, s", "its peak memory, MB", "nothing changed, s", "that one's peak memory, MB"


def main() -> None:
    """Run both in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", required=True, type=Path, help="a checkout of another commit")
    parser.add_argument("--images", required=True, type=Path, help="a folder of images")
    parser.add_argument("--count", type=int, default=20_000, help="files to ingest")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    paths, _ = sorted_out(find([str(options.images)]))
    sides = {"this": HERE, "other": options.other.resolve()}
    times: dict[str, list[tuple[float, ...]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(dir=options.images.parent) as scratch:
        files = copies(paths, options.count, Path(scratch) / "files")
        for side, checkout in sides.items():
            train = "train", "--time-budget", "30s", str(options.images)
            run(checkout, Path(scratch) / f"{side}.imgsim", *train)
        for turn in range(options.turns):
            for side in sorted(sides, reverse=bool(turn % 2)):
                empty = Path(scratch) / f"{side}.imgsim"
                times[side].append(twice(sides[side], empty, files))
    rows = [
        (figure, *medians, medians[0] / medians[1])
        for number, figure in enumerate(FIGURES)
        for medians in [[median([turn[number] for turn in times[side]]) for side in sides]]
    ]
    print_table([(f"{options.count:,} files", *sides, "ratio"), *rows])
    write_json(options.json, {"figures": list(FIGURES), **times})


def twice(checkout: Path, empty: Path, files: Path) -> tuple[float, ...]:
    """Ingest the files into a copy of a collection, twice; return the FIGURES."""
    collection = Path(shutil.copytree(empty, empty.with_name("turn.imgsim")))
    first = run(checkout, collection, "ingest", str(files))
    again = run(checkout, collection, "ingest", str(files))
    shutil.rmtree(collection)
    return *first, *again


def run(checkout: Path, collection: Path, *arguments: str) -> tuple[float, float]:
    """Run the command of a checkout; return its seconds and its peak memory in MB."""
    command = [sys.executable, "-c", RUN, "-q", "-c", str(collection), *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return time.perf_counter() - began, int(done.stderr.split()[-1]) / 1e3


if __name__ == "__main__":
    main()
