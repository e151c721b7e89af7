"""Measure a query from a cold start against a large collection, beside ``import tensorflow``.

The collection holds vectors that ``latents.py`` wrote, in segments as large as those of
an ingest, under invented paths; every run is a process of its own, with the files in the page
cache. Vectors beyond those in the file are the same ones, moved by a thousandth.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import command_seconds, median, print_table, write_json

from imgsim.catalog.catalog import Catalog
from imgsim.index.vector_store import VectorStore
from imgsim.records import ImageRecord

BATCH = 4_096  # images, as an ingest commits them

REPORT = """
import json, sys
from imgsim.cli.main import main
try:
    main()
except SystemExit:
    pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({name: int(status[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile")}))
"""


def main() -> None:
    """Fill a collection and query it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", required=True, type=Path, help="what latents.py wrote")
    parser.add_argument("--image", required=True, help="the image to query with")
    parser.add_argument("--count", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.embeddings) as scratch:
        collection = Path(scratch) / "large.imgsim"
        fill(collection, options.embeddings, options.count)
        measure(collection, options)


def fill(collection: Path, embeddings: Path, count: int) -> None:
    """Store ``count`` vectors as an ingest would."""
    shutil.copytree(embeddings / "encoder.imgsim", collection)
    embeddings = np.load(embeddings / "vectors.npy", mmap_mode="r")
    catalog, store = Catalog(collection / "catalog.db"), VectorStore(collection / "segments")
    for start in range(0, count, BATCH):
        numbers = np.arange(start, min(start + BATCH, count))
        moved = (1e-3 * (numbers // len(embeddings))[:, None]).astype(np.float32)
        paths = (f"/pictures/{number // 1_000}/{number}.jpg" for number in numbers.tolist())
        records = [ImageRecord(path, 1, 1, b"0" * 32, 64, 64) for path in paths]
        catalog.commit_batch(store.add(embeddings[numbers % len(embeddings)] + moved), records)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot)
    catalog.close()


def measure(collection: Path, options: argparse.Namespace) -> None:
    """Time the command and the import, and look at the memory that a query takes."""
    query = ["-c", str(collection), "query", options.image, "--format", "paths"]
    command = [str(Path(sys.executable).with_name("imgsim")), *query]
    ours = command_seconds(command, options.repeats)
    imports = command_seconds([sys.executable, "-c", "import tensorflow"], options.repeats)
    ratio = median(imports) / median(ours)
    print(f"{options.count:,} images\n")
    print_table(
        [
            ("start", "s", "times the query"),
            ("imgsim query", median(ours), 1.0),
            ("import tensorflow", median(imports), ratio),
        ]
    )
    process = subprocess.run(
        [sys.executable, "-c", REPORT, *query], check=True, capture_output=True, text=True
    )
    memory = json.loads(process.stdout.splitlines()[-1])
    print(f"\nmemory in MB: {memory['RssAnon']:.0f} anonymous, {memory['RssFile']:.0f} of files")
    write_json(
        options.json,
        {"count": options.count, "query_s": ours, "tensorflow_s": imports, "memory_mb": memory},
    )


if __name__ == "__main__":
    main()
