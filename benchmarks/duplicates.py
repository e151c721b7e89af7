"""Measure how many copies of real pictures are found, and how many pairs are none.

Of pictures in some folders, 1,000 are copied twice, each time changed in one of ten ways, and put
among the rest. A pair is right if both are made of pictures with the same file name. Beside imgsim
at the radius that it learns are perceptual hashes (`imagehash`, 64 bits) at imagededup's default
distance of 10 and at 4. Then 30 copies are planted among other pictures, as leaks.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from measure import print_table, write_json
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imgsim import Collection, EncoderSource, SearchFilter, TrainingSettings
from imgsim.curation_options import DuplicateSettings
from imgsim.images.source import images_in
from imgsim.parallel import in_threads

COPIED = 1_000
LEAKS = 30
HASHES = {"PHash": imagehash.phash, "DHash": imagehash.dhash}
THRESHOLDS = 10, 4
NETWORK = "efficientnet-lite0"

Change = Callable[[Image.Image, random.Random], Image.Image]


def resized(image: Image.Image, draw: random.Random) -> Image.Image:
    share = draw.uniform(0.25, 0.9)
    size = max(1, round(share * image.width)), max(1, round(share * image.height))
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(image: Image.Image, draw: random.Random) -> Image.Image:
    share = draw.uniform(0.02, 0.15)
    left, top = draw.random() * share * image.width, draw.random() * share * image.height
    right, bottom = left + (1 - share) * image.width, top + (1 - share) * image.height
    return image.crop((round(left), round(top), round(right), round(bottom)))


def lit(image: Image.Image, draw: random.Random) -> Image.Image:
    factor = draw.choice([draw.uniform(0.7, 0.9), draw.uniform(1.1, 1.3)])
    return ImageEnhance.Brightness(image).enhance(factor)


def coloured(image: Image.Image, draw: random.Random) -> Image.Image:
    factors = np.array([draw.uniform(0.85, 1.15) for _ in range(3)], np.float32)
    return Image.fromarray(np.clip(np.asarray(image) * factors, 0, 255).astype(np.uint8))


def bordered(image: Image.Image, draw: random.Random) -> Image.Image:
    width = round(min(image.size) * draw.uniform(0.02, 0.06))
    return ImageOps.expand(image, width, fill=draw.choice([(0, 0, 0), (255, 255, 255)]))


def written_on(image: Image.Image, draw: random.Random) -> Image.Image:
    image = image.copy()
    place = image.width * 0.05, image.height * draw.uniform(0.05, 0.8)
    style: dict[str, Any] = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
    text = "FOR SALE 2026"
    ImageDraw.Draw(image).text(place, text, font_size=max(8, image.width // 9), **style)
    return image


def turned(image: Image.Image, draw: random.Random) -> Image.Image:
    quarters = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270
    return image.transpose(draw.choice(quarters))


LIGHT: dict[str, Change] = {
    "saved again": lambda image, _: image,
    "resized": resized,
    "cropped": cropped,
    "brightness": lit,
    "colours": coloured,
}
"""What the target is about."""

CHANGES: dict[str, Change] = LIGHT | {
    "grey": lambda image, _: image.convert("L"),
    "border": bordered,
    "text": written_on,
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "turned": turned,
}
POSED = "mirrored", "turned"


def planted(paths: Sequence[Path], folder: Path, names: Sequence[str], each: int) -> None:
    """Write ``each`` copies of images, with changes in turn: ``<change>~<number>~<file name>``."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        for copy in range(each):
            name = names[
                (number + copy * (1 + number // len(names) % (len(names) - 1))) % len(names)
            ]
            quality = draw.randint(40, 95) if name == "saved again" else 92
            target = folder / f"{name}~{number}~{path.stem}.jpg"
            CHANGES[name](image, draw).save(target, quality=quality)


def kind_of(path: str) -> str:
    """Return the change that made an image, "" for none."""
    name = Path(path).name
    return name.split("~")[0] if "~" in name else ""


def origin_of(path: str) -> str:
    """Return the name of the picture that an image is or was made of."""
    return Path(path).stem.split("~")[-1]


def scored(groups: Sequence[Sequence[str]], made: Counter[str]) -> dict[str, Any]:
    """Return precision of the pairs in groups, and the share of copies that are with theirs."""
    right, wrong, found = 0, list[tuple[str, str]](), set[str]()
    for group in groups:
        for one, other in combinations(group, 2):
            if origin_of(one) != origin_of(other):
                wrong.append((one, other))
                continue
            right += 1
            kinds = {kind_of(one), kind_of(other)}
            if "" in kinds:
                found |= {path for path in (one, other) if kind_of(path)}
    by_kind = Counter(map(kind_of, found))
    recall = {kind: by_kind[kind] / count for kind, count in made.items()}
    light = sum(by_kind[kind] for kind in LIGHT) / sum(made[kind] for kind in LIGHT)
    precision = right / max(1, right + len(wrong))
    return {
        "precision": precision,
        "recall": light,
        **recall,
        "largest group": max((len(group) for group in groups), default=0),
        "wrong, the first": wrong[:10],
    }


def hashed(paths: Sequence[str], name: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the 64 bits of each image."""

    def bits(path: str) -> int:
        with Image.open(path) as file:
            flags = HASHES[name](ImageOps.exif_transpose(file)).hash.flatten()
        return int("".join("1" if flag else "0" for flag in flags), 2)

    return np.array(list(in_threads(bits, paths)), np.uint64)


def hash_pairs(values: np.ndarray[Any, np.dtype[np.uint64]], most: int) -> Iterator[list[int]]:
    """Yield the pairs of places whose hashes differ in so many bits or fewer."""
    for place in range(len(values) - 1):
        near = np.bitwise_count(values[place + 1 :] ^ values[place]) <= most
        for other in np.flatnonzero(near).tolist():
            yield [place, place + 1 + other]


def made_encoder(collection: Collection, kind: str, options: argparse.Namespace) -> None:
    images = options.images
    if kind == "trained" and options.encoder is not None:
        collection.encoders.add(EncoderSource(str(options.encoder)))
    elif kind == "trained":
        collection.train(list(images), TrainingSettings(time_budget=60 * options.minutes))
    else:
        collection.encoders.add_pretrained(NETWORK, name="bare")
        collection.encoders.adapt("bare", list(images))
        collection.encoders.use("bare-adapted")


def measured(
    kind: str, options: argparse.Namespace, scratch: Path, made: Counter[str]
) -> dict[str, Any]:
    """Return the figures of imgsim with an encoder."""
    with Collection.open(scratch / f"{kind}.imgsim", create=True) as collection:
        made_encoder(collection, kind, options)
        collection.ingest([scratch / "copies", *options.images])
        began = time.perf_counter()
        curves = collection.curation.learn_radius()
        learnt = time.perf_counter()
        report = collection.curation.duplicates()
        seconds = {"learn, s": learnt - began, "find, s": time.perf_counter() - learnt}
        groups = [[member.path for member in group.members] for group in report.groups]
        found = scored(groups, made) | seconds | {"radius": report.radius, "limit": curves.limit}
        found["expected"] = dict(curves.passed)
        if options.poses:
            found |= posed(collection, scratch, made)
        return found | leaked(collection, options.images, scratch / f"{kind}-leaks")


def posed(collection: Collection, scratch: Path, made: Counter[str]) -> dict[str, float]:
    """Return recall of the copies that are mirrored or turned, if these are looked for."""
    copies = [path for path in images_in(str(scratch / "copies")) if kind_of(path) in POSED]
    names = {origin_of(path) for path in copies}
    whole = [each.path for each in collection.images() if not kind_of(each.path)]
    wanted = [path for path in whole if origin_of(path) in names]
    within = SearchFilter(under=[*copies, *wanted])
    settings = DuplicateSettings(mirror=True, rotate=True, within=within)
    report = collection.curation.duplicates(settings)
    groups = [[member.path for member in group.members] for group in report.groups]
    found = scored(groups, made)
    return {f"{kind}, with poses": found[kind] for kind in POSED}


def leaked(collection: Collection, images: Sequence[Path], folder: Path) -> dict[str, int]:
    """Plant copies of stored pictures among others that are not stored; return what is found."""
    paths = sorted(map(Path, images_in(str(images[0]))))
    chosen = random.Random(1).sample(paths, LEAKS)
    planted(chosen, folder, list(LIGHT), 1)
    others = random.Random(2).sample(sorted(map(Path, images_in(str(images[1])))), 10 * LEAKS)
    for number, path in enumerate(others):
        (folder / f"other-{number}{path.suffix}").write_bytes(path.read_bytes())
    report = collection.curation.leaks(images[0], folder)
    right = sum(origin_of(leak.path) == origin_of(leak.source) for leak in report.leaks)
    return {"leaks found": right, "leaks that are none": len(report.leaks) - right}


def main() -> None:
    """Run the benchmark on folders of photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", help="two folders of photographs, or more")
    parser.add_argument("--encoders", nargs="+", default=["adapted", "trained"])
    parser.add_argument("--minutes", type=float, default=5, help="to train an encoder for")
    parser.add_argument("--encoder", type=Path, help="encoder.onnx that was trained before")
    parser.add_argument("--poses", action="store_true", help="look for mirrored, turned ones too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        paths = sorted({Path(each) for root in options.images for each in images_in(str(root))})
        by_name = {path.stem: path for path in paths}
        sample = random.Random(0).sample(sorted(by_name.values()), min(COPIED, len(by_name)))
        planted(sample, scratch / "copies", list(CHANGES), 2)
        copies = images_in(str(scratch / "copies"))
        made = Counter(map(kind_of, copies))
        results = {
            f"imgsim, {kind}": measured(kind, options, scratch, made) for kind in options.encoders
        }
        everything = [*map(str, paths), *copies]
        for name in HASHES:
            values = hashed(everything, name)
            for most in THRESHOLDS:
                pairs = [[everything[at] for at in pair] for pair in hash_pairs(values, most)]
                results[f"{name} <= {most}"] = scored(pairs, made)
    columns = "precision", "recall", *CHANGES, "radius", "leaks found", "leaks that are none"
    rows = [(name, *(found.get(each, "") for each in columns)) for name, found in results.items()]
    print(f"{len(everything):,} images, {len(copies):,} of them copies\n")
    print_table([("", *columns), *rows])
    write_json(options.json, dict[str, Any](results))


if __name__ == "__main__":
    main()
