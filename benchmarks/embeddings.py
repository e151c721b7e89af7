"""Make embeddings to search: an encoder that imgsim trains on the images, and random crops of them.

Writes ``embeddings.npy`` (n, d) float32, ``queries.npy`` (q, d), where the queries are crops of
images that give no embeddings, and ``encoder.imgsim``, the empty collection with the encoder. It is
the default one unless ``--recipe plain`` asks for the flattened latent of an autoencoder.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim import RECIPES, Collection
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import sorted_out
from imgsim.images.scan import find

QUERY_IMAGES = 200


def main() -> None:
    """Train, crop, encode, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, nargs="+", help="folders of images")
    parser.add_argument("--out", required=True, type=Path, help="a folder for the arrays")
    parser.add_argument("--count", type=int, default=500_000)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="contrastive")
    parser.add_argument("--latent-channels", type=int, default=64, help="of the plain recipe")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    options = parser.parse_args()
    paths, _ = sorted_out(find(options.images))
    settings = replace(RECIPES[options.recipe], time_budget=60 * options.minutes)
    if options.recipe == "plain":
        channels = options.latent_channels
        settings = replace(settings, image_size=64, latent_channels=channels, epochs=3)
    with Collection.open(options.out / "encoder.imgsim", create=True) as collection:
        report = collection.train(options.images, settings)
        encoder = Encoder(Path(report.encoder.directory))
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    gallery, held_out = order[QUERY_IMAGES:], order[:QUERY_IMAGES]
    each = -(-options.count // len(gallery))
    embeddings = encode_crops([paths[i] for i in gallery], encoder, each)[: options.count]
    np.save(options.out / "embeddings.npy", embeddings)
    queries = encode_crops([paths[i] for i in held_out], encoder, 5)
    np.save(options.out / "queries.npy", np.random.default_rng(1).permutation(queries))
    print(f"{embeddings.shape} embeddings and {queries.shape} queries: {options.out}")


def encode_crops(paths: list[str], encoder: Encoder, each: int) -> NDArray[np.float32]:
    """Return the embeddings of ``each`` random crops of every image."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate(
            list(
                pool.map(
                    lambda i: encoder.encode(crops(paths[i], each, i, encoder)), range(len(paths))
                )
            )
        )


def crops(path: str, each: int, seed: int, encoder: Encoder) -> NDArray[np.uint8]:
    """Return random crops of 35 to 100 % of the sides, resized to the encoder's input."""
    random = np.random.default_rng(seed)
    size = encoder.preprocessing.width, encoder.preprocessing.height
    found = np.empty((each, size[1], size[0], 3), np.uint8)
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    for number in range(each):
        share = random.uniform(0.35, 1.0)
        width, height = (max(8, int(side * share)) for side in image.size)
        left = int(random.integers(0, max(1, image.width - width + 1)))
        top = int(random.integers(0, max(1, image.height - height + 1)))
        box = left, top, min(image.width, left + width), min(image.height, top + height)
        found[number] = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
    return found


if __name__ == "__main__":
    main()
