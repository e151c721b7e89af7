"""Real photographs for the tests: crops of those that scikit-image ships in its wheel."""

from pathlib import Path

import numpy as np
import skimage
from PIL import Image

_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)


def write_crops(folder: Path, each: int = 6, side: int = 96) -> list[str]:
    """Write ``each`` random crops of every photograph as JPEG; return their paths, sorted."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PHOTOGRAPHS:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as photograph:
            rgb = photograph.convert("RGB")
        for number in range(each):
            left = int(random.integers(rgb.width - side))
            top = int(random.integers(rgb.height - side))
            crop = rgb.crop((left, top, left + side, top + side))
            crop.save(folder / f"{Path(name).stem}-{number}.jpg", quality=90)
    return sorted(str(path) for path in folder.iterdir())
