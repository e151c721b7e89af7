"""Measure how well encoders retrieve images of the same label: recipes, ingredients, baselines.

Each training sees the images of a folder alone, without labels, and runs once for every seed.
Figures are means over the seeds, with the least and the greatest. Queries are the same for all.
Colours count as the images say, by default. All this takes hours: trainings that the JSON file has
already are not run again.
"""

import argparse
import csv
import itertools
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from measure import print_table, write_json
from numpy.typing import NDArray
from PIL import Image

from imgsim import PLAIN, Collection, TrainingSettings
from imgsim.encoder.encoder import Encoder
from imgsim.encoder.head_fit import relevant_directions, unit
from imgsim.evaluation.evaluate import Ranking, chosen_queries, rank
from imgsim.images.decode import decode
from imgsim.images.descriptors import histogram_of, pixels_of
from imgsim.images.frame import Frame
from imgsim.training.network import encoder_of

DEFAULT = TrainingSettings()
TRAININGS = {
    "default": DEFAULT,
    "plain": PLAIN,
    "views alone": replace(DEFAULT, reconstruct=0.0),
    "colours some": replace(DEFAULT, colours="some"),
    "colours little": replace(DEFAULT, colours="little"),
    "colours much": replace(DEFAULT, colours="much"),
}
SETS = {"clothing": "label", "grocery": "instance"}
DATA = Path(os.environ.get("IMGSIM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
Figures = dict[str, float]


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
        return [decode(path, Frame(side, side)) for path in self.paths]

    def figures(self, embeddings: NDArray[np.float32]) -> Figures:
        """Return R@1, P@10 and mAP, and R@1 of natural photographs against iconic pictures."""
        found = measures(rank(embeddings, self.labels, self.queries, self.natural))
        if len(self.iconic):
            against = measures(rank(embeddings, self.labels, self.queries, self.iconic))
            found["iconic R@1"], found["iconic mAP"] = against["R@1"], against["mAP"]
        return found


def measures(ranking: Ranking) -> Figures:
    """Return the means over all queries."""
    return {
        "R@1": float(ranking.relevant[:, 0].mean()),
        "P@10": float(ranking.relevant.mean()),
        "mAP": float(ranking.average_precision.mean()),
    }


def baselines(data: Labelled) -> dict[str, Figures]:
    """Return the figures of what needs no training."""
    images = data.images(128)
    hashes = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    return {
        "pixels 32x32": data.figures(np.stack([pixels_of(image) for image in images])),
        "HSV histogram": data.figures(np.stack([histogram_of(image) for image in images])),
        "perceptual hash": data.figures(np.stack(hashes).astype(np.float32)),
    }


def trained(data: Labelled, settings: TrainingSettings) -> dict[str, Any]:
    """Train once; return the figures of its embeddings by what is made of the latent, and facts."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Collection.open(scratch, create=True) as collection,
    ):
        began = time.perf_counter()
        report = collection.train(data.folder, settings)
        minutes = (time.perf_counter() - began) / 60
        directory = Path(report.encoder.directory)
        images = data.images(settings.image_size)
        latents = latents_of(directory / "model.keras", images)
        encoder = Encoder(directory)
        embeddings = np.concatenate([encoder.encode(image[np.newaxis]) for image in images])
    directions = relevant_directions(unit(latents), DEFAULT.principal)
    figures = {
        "latent": data.figures(latents),
        "unit length": data.figures(unit(latents)),
        "256 directions": data.figures(unit(unit(latents) @ directions.weights + directions.bias)),
        "encoder": data.figures(embeddings),
    }
    rates = [epoch.images_per_second for epoch in report.history]
    facts = {"minutes": minutes, "images/s": float(np.median(rates)), "epochs": len(rates)}
    return {"figures": figures, "colours": report.colours, **facts}


def latents_of(autoencoder: Path, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return the flattened latents (n, d) of images."""
    import keras  # noqa: PLC0415 - imgsim decides how TensorFlow computes before it loads

    encoder = encoder_of(keras.models.load_model(autoencoder))
    batches = (np.stack(images[i : i + 64]) for i in range(0, len(images), 64))
    return np.concatenate([encoder.predict_on_batch(batch.astype(np.float32)) for batch in batches])


def cells(runs: Sequence[Figures]) -> list[str]:
    """Return a cell for each figure: the mean, and the ends if there are several runs."""
    found = []
    for name in runs[0]:
        values = [run[name] for run in runs]
        ends = f" ({min(values):.3f}-{max(values):.3f})" if len(runs) > 1 else ""
        found.append(f"{np.mean(values):.3f}{ends}")
    return found


def table(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each kind of embeddings."""
    rows = [(name, "", *cells([figures])) for name, figures in results["baselines"].items()]
    for training, seeds in results["trainings"].items():
        runs = list(seeds.values())
        counting = ", ".join(sorted({run["colours"] for run in runs}))
        rows += [
            (
                f"{training} (colours: {counting})",
                name,
                *cells([run["figures"][name] for run in runs]),
            )
            for name in runs[0]["figures"]
        ]
    return [("training", "embeddings", *next(iter(results["baselines"].values()))), *rows]


def measure(data: Labelled, options: argparse.Namespace, path: Path | None) -> None:
    """Run the trainings that the file at ``path`` has not, and print all of them."""
    results: dict[str, Any] = {
        "images": len(data.paths),
        "queries": len(data.queries),
        "minutes": options.minutes,
    }
    if path and path.exists():
        before = json.loads(path.read_text())
        del before["machine"]  # that of the last run is noted
        if any(before[fact] != value for fact, value in results.items()):
            raise SystemExit(f"{path} has trainings of other minutes, or on other images")
        results = before
    if "baselines" not in results:
        results["baselines"] = baselines(data)
    trainings = results.setdefault("trainings", {})
    for seed, name in itertools.product(map(str, range(options.seeds)), options.trainings):
        runs = trainings.setdefault(name, {})
        if seed not in runs:
            settings = replace(TRAININGS[name], time_budget=60 * options.minutes, seed=int(seed))
            runs[seed] = trained(data, settings)
            print(name, seed, json.dumps(runs[seed]), flush=True)
            write_json(path, results)
    cores = len(os.sched_getaffinity(0))
    print(f"{len(data.paths):,} images, {len(data.queries):,} queries, {cores} cores\n")
    print_table(table(results))


def main() -> None:
    """Run the benchmark on the labelled images in a folder, or on both sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of images in place of the two sets")
    parser.add_argument("--labels", type=Path, help="a table; its column path is in the folder")
    parser.add_argument("--column", default="label")
    parser.add_argument("--data", type=Path, default=DATA, help="where the sets' archives are")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=DEFAULT.time_budget / 60)
    parser.add_argument("--trainings", nargs="*", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument(
        "--json", type=Path, help="write the figures to this file (one for each set), and go on"
    )
    options = parser.parse_args()
    if options.images:
        labels = options.labels or options.images / "manifest.csv"
        measure(Labelled(options.images, labels, options.column), options, options.json)
        return
    for name, column in SETS.items():
        with (
            tempfile.TemporaryDirectory() as scratch,
            tarfile.open(options.data / f"{name}.tar") as tar,
        ):
            tar.extractall(scratch, filter="data")
            (labels,) = Path(scratch).rglob("manifest.csv")
            path = options.json and options.json.with_stem(f"{options.json.stem}-{name}")
            measure(Labelled(labels.parent, labels, column), options, path)


if __name__ == "__main__":
    main()
