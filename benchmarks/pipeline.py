"""Measure each stage from image files to a query, beside what could replace it.

Training, decoding, encoding (ONNX Runtime beside Keras), ingest, and a cold ``imgsim query`` beside
the import of TensorFlow. Every figure is the median of several runs on the same images.
"""

import argparse
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from measure import command_seconds, median, print_table, seconds, write_json

from imgsim import RECIPES, Collection
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode, sorted_out
from imgsim.images.frame import Frame
from imgsim.images.scan import find
from imgsim.training.network import encoder_of


def main() -> None:
    """Run the benchmark on the images in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="a folder of photographs")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--recipe", choices=RECIPES, default="plain")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    paths, _ = sorted_out(find([options.images]))
    with tempfile.TemporaryDirectory() as scratch:
        measure(paths, options, Path(scratch))


def measure(paths: list[str], options: argparse.Namespace, scratch: Path) -> None:
    """Measure every stage and print the figures."""
    side, repeats, n = options.image_size, options.repeats, len(paths)
    rates: dict[str, float] = {}
    settings = replace(RECIPES[options.recipe], image_size=side, epochs=repeats + 1)
    with Collection.open(scratch / "c", create=True) as collection:
        report = collection.train(paths, settings)
        # The first epoch includes the tracing of the graph.
        rates["train"] = median([epoch.images_per_second for epoch in report.history[1:]])

        rates["decode, one thread"] = n / median(
            seconds(lambda: decode_all(paths, side, 1), repeats)
        )
        cores = os.cpu_count() or 1
        rates["decode, all cores"] = n / median(
            seconds(lambda: decode_all(paths, side, cores), repeats)
        )
        encode_rates(paths, report.encoder.directory, side, repeats, rates)

    times = [ingest_seconds(scratch, number, paths) for number in range(repeats)]
    rates["ingest"] = n / median(times)

    query = [sys.executable, "-m", "imgsim", "-c", str(scratch / "0"), "query", paths[0]]
    cold = command_seconds(query, repeats)
    tensorflow = command_seconds([sys.executable, "-c", "import tensorflow"], repeats)

    show = command_seconds([sys.executable, "-m", "imgsim", "--help"], repeats)
    dim = report.encoder.dim
    typer = command_seconds([sys.executable, "-c", "import typer, rich"], repeats)

    print(f"{n} images, {side}x{side}, {dim} latent values, medians of {repeats} runs\n")
    print_table([("stage", "images/s"), *rates.items()])
    print()
    ratio = median(tensorflow) / median(cold)
    print_table(
        [
            ("start", "seconds", "ratio"),
            ("cold imgsim query", median(cold), ""),
            ("import tensorflow", median(tensorflow), ratio),
            ("imgsim --help", median(show), median(show) / median(typer)),
            ("import typer, rich", median(typer), ""),
        ]
    )
    starts = {"query": cold, "tensorflow": tensorflow, "help": show, "typer, rich": typer}
    write_json(
        options.json,
        {
            "images": n,
            "image_size": side,
            "dim": dim,
            "rates": rates,
            "starts": starts,
        },
    )


def decode_all(paths: list[str], side: int, threads: int) -> None:
    """Decode and resize every image."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda path: decode(path, Frame(side, side)), paths):
            pass


def encode_rates(
    paths: list[str], directory: str, side: int, repeats: int, rates: dict[str, float]
) -> None:
    """Encode decoded images with ONNX Runtime as imgsim does, and with Keras."""
    pixels = np.stack([decode(path, Frame(side, side)) for path in paths[:256]])
    n = len(pixels)
    encoder = Encoder(Path(directory))
    cores = os.cpu_count() or 1

    def encode_all() -> None:
        with ThreadPoolExecutor(cores) as pool:
            for _ in pool.map(lambda i: encoder.encode(pixels[i : i + 1]), range(n)):
                pass

    model = encoder_of(keras.models.load_model(Path(directory) / "model.keras"))
    floats = pixels.astype(np.float32)
    model.predict(floats, verbose=0)
    rates["encode, ONNX Runtime"] = n / median(seconds(encode_all, repeats))
    rates["encode, Keras predict"] = n / median(
        seconds(lambda: model.predict(floats, verbose=0), repeats)
    )


def ingest_seconds(scratch: Path, number: int, paths: list[str]) -> float:
    """Return the time to ingest all images into a copy of the empty collection."""
    copy = shutil.copytree(scratch / "c", scratch / str(number))
    with Collection.open(copy) as collection:
        (time,) = seconds(lambda: collection.ingest(paths), 1)
    return time


if __name__ == "__main__":
    main()
