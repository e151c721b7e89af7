"""Measure an ingest beside its two limits, a second run, and adding to small and large collections.

The images of a folder are copied under other names until there are enough, each with another eight
bytes after its end, so that every file has another content and the same pixels.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import median, print_table, seconds, write_json
from numpy.typing import NDArray

from imgsim import RECIPES, Collection
from imgsim.catalog.catalog import Catalog
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode, sorted_out
from imgsim.images.frame import Frame
from imgsim.images.scan import find
from imgsim.index.vector_store import VectorStore
from imgsim.records import ImageRecord

REPEATS = 5
FIRST_RUNS = 3
ADDED = 1_000
BOTH = "both on the same cores, images/s"
STORED = 65_536  # images of a segment in a collection that is made up

RUN = """
import sys
from imgsim.cli.main import main
try:
    main()
finally:  # ru_maxrss would count what the benchmark had before it became this process
    with open("/proc/self/status") as file:
        (peak,) = (line.split()[1] for line in file if line.startswith("VmHWM"))
    sys.stderr.write(f"\\n{peak}")
"""


def main() -> None:
    """Run the benchmark on the images in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, type=Path, help="a folder of images")
    parser.add_argument("--count", type=int, default=20_000, help="files to ingest")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--recipe", choices=RECIPES, default="plain")
    parser.add_argument("--large", type=int, default=0, help="also add to so many made-up images")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    paths, _ = sorted_out(find([str(options.images)]))
    with tempfile.TemporaryDirectory(dir=options.images.parent) as scratch:
        files = copies(paths, options.count + ADDED, Path(scratch) / "files")
        template = Path(scratch) / "template.imgsim"
        with Collection.open(template, create=True) as collection:
            settings = replace(RECIPES[options.recipe], image_size=options.image_size, epochs=1)
            directory = collection.train(paths[:512], settings).encoder.directory
        figures = limits(paths, Encoder(Path(directory)))
        figures |= runs(template, files, options.count)
        figures["share of that"] = figures["ingest, images/s"] / figures[BOTH]
        if options.large:
            figures |= appends(template, files, options)
    what = f"{options.count:,} files of {len(paths):,} images to {options.image_size} pixels"
    print(f"{what}\n")
    print_table([("figure", "value"), *figures.items()])
    write_json(options.json, {"what": what, **figures})


def copies(paths: list[str], count: int, folder: Path) -> Path:
    """Write files of which each has another content; the last ADDED to a folder of their own."""
    for number in range(count):
        part = folder / ("more" if number >= count - ADDED else f"{number // 1_000}")
        part.mkdir(parents=True, exist_ok=True)
        source = Path(paths[number % len(paths)])
        tail = number.to_bytes(8, "big")
        (part / f"{number}{source.suffix}").write_bytes(source.read_bytes() + tail)
    return folder


def limits(paths: list[str], encoder: Encoder) -> dict[str, float]:
    """Return the rates of decoding and of encoding alone, on all cores."""
    some = paths[:2_000]
    height, width = encoder.preprocessing.height, encoder.preprocessing.width
    images = np.stack([decode(path, Frame(height, width)) for path in some[:500]])

    def each(work: Callable[[Any], object], items: Iterable[Any]) -> float:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return median(seconds(lambda: list(pool.map(work, items)), REPEATS))

    decoding = each(lambda path: decode(path, Frame(height, width)), some)
    encoding = each(lambda image: encoder.encode(image[np.newaxis]), images)
    rates = {"decode, images/s": len(some) / decoding, "encode, images/s": len(images) / encoding}
    both = 1 / sum(1 / rate for rate in rates.values())
    return {**rates, BOTH: both}


def runs(template: Path, files: Path, count: int) -> dict[str, float]:
    """Return what a first and a second ingest of the same files take."""
    folders = [str(path) for path in files.iterdir() if path.name != "more"]
    firsts = []
    for number in range(FIRST_RUNS):
        collection = Path(shutil.copytree(template, template.with_name(f"{number}.imgsim")))
        firsts.append(ingest(collection, folders))
    first, memory = median([time for time, _ in firsts]), max(peak for _, peak in firsts)
    again = median([ingest(collection, folders)[0] for _ in range(REPEATS)])
    with Collection.open(collection) as opened:
        rescan = median(seconds(lambda: opened.ingest(folders), REPEATS))
    return {
        "ingest, images/s": count / first,
        "peak memory, MB": memory,
        "second run, s": again,
        "unchanged files/s, without start-up": count / rescan,
    }


def ingest(collection: Path, folders: list[str]) -> tuple[float, float]:
    """Run the command; return its seconds and its peak memory in MB."""
    command = [sys.executable, "-c", RUN, "-q", "-c", str(collection), "ingest", *folders]
    began = time.perf_counter()
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, int(run.stderr.split()[-1]) / 1e3


def appends(template: Path, files: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds to add ADDED images to a small and to a large collection."""
    times = {}
    for size in (ADDED, options.large):
        filled = Path(shutil.copytree(template, template.with_name(f"{size}.imgsim")))
        fill(filled, size)
        values = []
        for _ in range(REPEATS):
            values.append(ingest(filled, [str(files / "more")])[0])
            with Collection.open(filled) as collection:
                collection.remove([files / "more"])
        times[f"adding {ADDED:,} to {size:,}, s"] = median(values)
    small, large = times.values()
    return {**times, "ratio": large / small}


def fill(path: Path, count: int) -> None:
    """Store embeddings that compress, under invented paths and contents."""
    catalog, store = Catalog(path / "catalog.db"), VectorStore(path / "segments")
    with catalog.snapshot() as snapshot:
        dim = snapshot.encoder().dim
    random = np.random.default_rng(0)
    shape = (0.97 ** np.arange(dim)).astype(np.float32)
    for start in range(0, count, STORED):
        numbers = np.arange(start, min(start + STORED, count))
        embeddings: NDArray[np.float32] = random.standard_normal((len(numbers), dim), np.float32)
        images = {
            n + 1: ImageRecord(f"/made-up/{n // 1_000}/{n}.jpg", 1, 1, n.to_bytes(32), 64, 64)
            for n in numbers.tolist()
        }
        catalog.commit_batch(store.add(numbers + 1, embeddings * shape), images)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot.segments(), snapshot.segment_ids)
    catalog.close()


if __name__ == "__main__":
    main()
