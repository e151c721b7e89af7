"""A map of images as one picture: points, and pictures wherever there is room."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.errors import ImageError
from imgsim.files import replacing, writing
from imgsim.findings import ImageMap, StageProgress
from imgsim.images.decode import thumbnail
from imgsim.options import STORED_RULES
from imgsim.parallel import in_threads

_SIDE = 2_400
_MARGIN = 60
_PICTURE = 56
_CELL = 60
_POINT = 3
_INK = 150


def draw_map(path: Path, found: ImageMap, on_progress: StageProgress) -> int:
    """Write a PNG file of 2,400 x 2,400 pixels; return how many pictures could not be drawn.

    Of the images in a cell of 60 x 60 pixels, the one nearest to its middle is shown.
    """
    places = _placed(found.positions)
    canvas = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    for down in range(_POINT):
        for right in range(_POINT):
            canvas[places[:, 1] + down, places[:, 0] + right] = _INK
    shown = _shown(places)
    missing = 0
    sheet = Image.fromarray(canvas)
    thumbnails = in_threads(_thumbnail, [found.paths[row] for row in shown])
    for done, (row, pixels) in enumerate(zip(shown, thumbnails, strict=True), start=1):
        if isinstance(pixels, ImageError):
            missing += 1
        else:
            picture = Image.fromarray(pixels)
            middle_x, middle_y = (places[row] // _CELL * _CELL + _CELL // 2).tolist()
            sheet.paste(picture, (middle_x - picture.width // 2, middle_y - picture.height // 2))
        on_progress("pictures", done, len(shown))
    with writing(path), replacing(path.resolve()) as temporary:
        sheet.save(temporary, "PNG")
    return missing


def _thumbnail(path: str) -> NDArray[np.uint8]:
    return thumbnail(path, _PICTURE, STORED_RULES).values


def _placed(positions: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return positions (n, 2) as pixels, centred."""
    if not len(positions):
        return np.zeros((0, 2), np.int64)
    low, high = positions.min(axis=0), positions.max(axis=0)
    spread = float((high - low).max()) or 1.0
    scaled = (positions - (low + high) / 2) / spread * (_SIDE - 2 * _MARGIN) + _SIDE / 2
    placed: NDArray[np.int64] = scaled.astype(np.int64)
    return placed


def _shown(places: NDArray[np.int64]) -> list[int]:
    """Return the row of one image of each cell, which is the nearest to the cell's middle."""
    cells = places // _CELL
    off = np.hypot(*(places - cells * _CELL - _CELL / 2).T)
    keys = cells[:, 0] * _SIDE + cells[:, 1]
    order = np.lexsort((off, keys))
    first = np.unique(keys[order], return_index=True)[1]
    return [int(row) for row in order[first]]
