"""Measure how well encoders retrieve images of the same label: recipes, ingredients, yardsticks.

Each recipe trains on the images of a folder alone, without labels, with every seed. Figures are
means over the seeds, with the least and the greatest. Queries are the same for all.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
from measure import print_table, write_json
from numpy.typing import NDArray
from PIL import Image

from imgsim import PLAIN, Collection, TrainingSettings
from imgsim.encoder import Encoder
from imgsim.evaluate import Ranking, chosen_queries, rank
from imgsim.images import decode
from imgsim.yardsticks import histogram_of, pixels_of

DEFAULT = TrainingSettings()
RECIPES = {
    "plain": replace(PLAIN, time_budget=DEFAULT.time_budget),
    "+ unit length, 256 directions": replace(PLAIN, time_budget=1_200.0, principal=256, unit=True),
    "views, not reconstructed": replace(DEFAULT, reconstruct=0.0, colours="ignore", principal=0),
    "+ reconstructed": replace(DEFAULT, colours="ignore", principal=0),
    "+ 256 directions": replace(DEFAULT, colours="ignore"),
    "+ colours kept": replace(DEFAULT, colours="keep"),
    "default": DEFAULT,
}


class Labelled:
    """Images with a label each, of which the ``iconic`` ones are a gallery of their own."""

    def __init__(self, folder: Path, table: Path, column: str) -> None:
        self.folder = folder
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.paths = [str(folder / row["path"]) for row in rows]
        names = [row[column] for row in rows]
        self.labels = np.unique(names, return_inverse=True)[1]
        iconic = np.array([row.get("split") == "iconic" for row in rows])
        self.natural, self.iconic = np.flatnonzero(~iconic), np.flatnonzero(iconic)
        drawn = chosen_queries(self.labels[self.natural], 1_000, seed=0)
        self.queries = self.natural[drawn]

    def images(self, side: int) -> list[NDArray[np.uint8]]:
        """Return the pixels of all images."""
        return [decode(path, side, side) for path in self.paths]

    def figures(self, vectors: NDArray[np.float32]) -> dict[str, float]:
        """Return R@1, P@10 and mAP, and R@1 of natural photographs against iconic pictures."""
        found = measures(rank(vectors, self.labels, self.queries, self.natural))
        if len(self.iconic):
            against = measures(rank(vectors, self.labels, self.queries, self.iconic))
            found["iconic R@1"], found["iconic mAP"] = against["R@1"], against["mAP"]
        return found


def measures(ranking: Ranking) -> dict[str, float]:
    """Return the means over all queries."""
    return {
        "R@1": float(ranking.relevant[:, 0].mean()),
        "P@10": float(ranking.relevant.mean()),
        "mAP": float(ranking.average_precision.mean()),
    }


def yardsticks(data: Labelled) -> dict[str, dict[str, float]]:
    """Return the figures of what needs no training."""
    images = data.images(128)
    hashes = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    return {
        "pixels 32x32": data.figures(np.stack([pixels_of(image) for image in images])),
        "HSV histogram": data.figures(np.stack([histogram_of(image) for image in images])),
        "perceptual hash": data.figures(np.stack(hashes).astype(np.float32)),
    }


def trained(data: Labelled, settings: TrainingSettings) -> dict[str, float]:
    """Train once and return the figures, the training time and its rate."""
    with tempfile.TemporaryDirectory() as scratch, Collection.open(scratch) as collection:
        began = time.perf_counter()
        report = collection.train(data.folder, settings)
        minutes = (time.perf_counter() - began) / 60
        encoder = Encoder(Path(report.encoder.directory))
        images = data.images(settings.image_size)
        vectors = np.concatenate([encoder.encode(image[np.newaxis]) for image in images])
    rate = float(np.median([epoch.images_per_second for epoch in report.history]))
    return data.figures(vectors) | {
        "minutes": minutes,
        "images/s": rate,
        "values": encoder.feed.dim,
    }


def summary(runs: Sequence[dict[str, float]]) -> list[str]:
    """Return a cell for each figure: the mean, and the ends if there are several runs."""
    cells = []
    for name in runs[0]:
        values = [run[name] for run in runs]
        digits = 3 if max(values) <= 1 else 0
        ends = f" ({min(values):.{digits}f}-{max(values):.{digits}f})" if len(runs) > 1 else ""
        cells.append(f"{np.mean(values):.{digits}f}{ends}")
    return cells


def main() -> None:
    """Run the benchmark on the labelled images in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, type=Path, help="a folder of images")
    parser.add_argument("--labels", type=Path, help="a table; its column path is in the folder")
    parser.add_argument("--column", default="label")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    table = options.labels or options.images / "manifest.csv"
    data = Labelled(options.images, table, options.column)
    results: dict[str, list[dict[str, float]]] = {
        name: [figures] for name, figures in yardsticks(data).items()
    }
    for name in options.recipes:
        for seed in range(options.seeds):
            found = trained(data, replace(RECIPES[name], seed=seed))
            results.setdefault(name, []).append(found)
            print(name, seed, summary([found]), flush=True)
            write_json(options.json, {"images": len(data.paths), "results": results})
    print(f"{len(data.paths):,} images, {len(data.queries):,} queries, {os.cpu_count()} cores\n")
    header = max((list(runs[0]) for runs in results.values()), key=len)
    print_table([("vectors", *header), *((name, *summary(r)) for name, r in results.items())])


if __name__ == "__main__":
    main()
