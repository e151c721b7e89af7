"""Measure pretrained networks as they are and adapted: what they find, and what they cost.

For each set of labelled images, each network is added, adapted to the images without their labels,
as by default and in integers, and evaluated with the labels. Seconds are those
until images can be ingested; ingest is of the same images, into a collection of its own.
"""

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import print_table, write_json
from retrieval import DATA, SETS

from imgsim import AdaptSettings, Collection, EncoderSource, EvaluationSettings, IngestSettings

NETWORK = "efficientnet-lite0"
LEFT_OUT = "iconic"  # pictures of the groceries that are no photographs
ADAPTED = {
    "adapted": AdaptSettings(exclude=LEFT_OUT),
    "int8": AdaptSettings(int8=True, exclude=LEFT_OUT),
}


@contextmanager
def sets(options: argparse.Namespace) -> Iterator[dict[str, tuple[Path, Path, str]]]:
    """Yield folder, table and column of each set."""
    if options.images:
        table = options.labels or options.images / "manifest.csv"
        yield {options.images.name: (options.images, table, options.column)}
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for name, column in SETS.items():
            with tarfile.open(options.data / f"{name}.tar") as tar:
                tar.extractall(Path(scratch) / name, filter="data")
            (table,) = (Path(scratch) / name).rglob("manifest.csv")
            found[name] = table.parent, table, column
        yield found


def measured(folder: Path, table: Path, column: str, network: str) -> dict[str, dict[str, Any]]:
    """Return the figures of a network on one set, bare and adapted."""
    figures: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Collection.open(Path(scratch) / "c", create=True) as collection,
    ):
        began = time.perf_counter()
        collection.encoders.add_pretrained(network, name="bare")
        figures["bare"] = {"seconds": time.perf_counter() - began}
        for name, settings in ADAPTED.items():
            began = time.perf_counter()
            report = collection.encoders.adapt("bare", folder, settings, new_name=name)
            took = time.perf_counter() - began + figures["bare"]["seconds"]
            figures[name] = {"seconds": took, "colours": report.colours}
        labels = EvaluationSettings(str(table), column, exclude=LEFT_OUT)
        scores = collection.evaluate(folder, labels, encoders=list(figures)).encoders
        for name, each in scores.items():
            figures[name] |= {"P@10": each.p10.value, "mAP": each.map.value}
        for name in ("adapted", "int8"):
            file = Path(collection.encoders.get(name).directory) / "encoder.onnx"
            rate = ingested(Path(scratch) / name, file, folder)
            figures[name]["ingest, images/s"] = rate
    return figures


def ingested(path: Path, encoder: Path, folder: Path) -> float:
    """Return how many images are ingested in a second."""
    with Collection.open(path, create=True) as collection:
        collection.encoders.add(EncoderSource(str(encoder)))
        began = time.perf_counter()
        report = collection.ingest(folder, IngestSettings(exclude=LEFT_OUT))
        return report.added / (time.perf_counter() - began)


def main() -> None:
    """Run the benchmark on the labelled images in a folder, or on both sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of images in place of the two sets")
    parser.add_argument("--labels", type=Path, help="a table; its column path is in the folder")
    parser.add_argument("--column", default="label")
    parser.add_argument("--data", type=Path, default=DATA, help="where the sets' archives are")
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with sets(options) as chosen:
        results = {name: measured(*each, options.network) for name, each in chosen.items()}
    names = "P@10", "mAP", "seconds", "colours", "ingest, images/s"
    rows = [
        (f"{name}, {kind}", *(figures.get(each, "") for each in names))
        for name, kinds in results.items()
        for kind, figures in kinds.items()
    ]
    print(f"{options.network}, {len(os.sched_getaffinity(0))} cores\n")
    print_table([("set", *names), *rows])
    write_json(options.json, dict[str, Any](results))


if __name__ == "__main__":
    main()
