"""A map of images as one HTML page that needs nothing else: no network, no library, no GPU."""

import base64
import gzip
import hashlib
import html
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsim.files import replacing, writing
from imgsim.findings import ImageMap, StageProgress
from imgsim.output.atlas import Atlas, columns_of, side_for
from imgsim.output.target import PAGES, check_target
from imgsim.text import printable

_UNITS = 65_535
_LINKS = '<nav aria-label="pages"><a href="/">Browse</a> <a href="/search">Search</a></nav>'


@dataclass(frozen=True)
class Colouring:
    """What colours mean: the label of each image in the order of a map, "" where it has none."""

    name: str
    labels: Sequence[str]


def write_map_page(
    path: Path,
    found: ImageMap,
    colourings: Sequence[Colouring],
    on_progress: StageProgress,
    *,
    served: bool = False,
) -> int:
    """Write the page; return how many images have no thumbnail in it, because they have no file.

    It has a small thumbnail of each image, up to some 230,000; larger pictures are taken from the
    files while they are looked at, or of a page that is ``served``, from the server. All text is
    escaped.
    """
    check_target(path, PAGES)
    order = _along_a_curve(found.positions)
    with (
        writing(path),
        replacing(path.resolve()) as temporary,
        temporary.open("wb") as file,
    ):
        page = _Page(file, found, order, served=served)
        page.begin(colourings)
        atlas = Atlas([found.paths[row] for row in order.tolist()])
        for number, picture in enumerate(atlas.pictures(partial(on_progress, "thumbnails"))):
            page.data(f"atlas-{number}", picture)
        page.packed("sizes", atlas.sizes)
        page.end()
    return atlas.missing


class _Page:
    """Writes the parts of a page one after the other."""

    def __init__(
        self, file: BinaryIO, found: ImageMap, order: NDArray[np.int64], *, served: bool
    ) -> None:
        self._file, self._found, self._order, self._served = file, found, order, served

    def begin(self, colourings: Sequence[Colouring]) -> None:
        """Write all but thumbnails; a browser draws points from then on."""
        found, order = self._found, self._order
        style, script = _asset("map.css"), _script()
        policy = html.escape(page_policy(served=self._served))
        links = _LINKS if self._served else ""
        self._text(_asset("map.html").format(policy=policy, style=style, links=links))
        coded = [_coded(each, order) for each in colourings]
        nearest, distances, farthest = _neighbours(found, order)
        facts = {
            "n": len(found),
            "served": self._served,
            "k": nearest.shape[1],
            "side": side_for(len(found)),
            "columns": columns_of(len(found)),
            "farthest": farthest,
            "text": _told(found),
            "colourings": [facts for facts, _ in coded],
        }
        self._text(f'<script type="application/json" id="data-facts">{_json(facts)}</script>\n')
        self.packed("places", _places(found.positions)[order])
        for number, (_, codes) in enumerate(coded):
            self.packed(f"codes-{number}", codes)
        self._text(f"<script>{script}</script>\n")
        paths = b"".join(os.fsencode(found.paths[row]) + b"\0" for row in order.tolist())
        self.packed("paths", np.frombuffer(paths, np.uint8))
        self.packed("nearest", nearest)
        self.packed("distances", distances)
        if self._served:
            self.packed("ids", found.ids[order].astype(np.float64))

    def packed(self, name: str, values: NDArray[np.generic]) -> None:
        """Write an array, compressed."""
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self.data(f"data-{name}", gzip.compress(little.tobytes(), 6, mtime=0))

    def data(self, name: str, content: bytes) -> None:
        """Write bytes into an element of this name."""
        self._text(f'<script type="text/plain" id="{name}">')
        self._file.write(base64.b64encode(content))
        self._text("</script>\n")

    def end(self) -> None:
        """Write what closes the page."""
        self._text("</body>\n</html>\n")

    def _text(self, text: str) -> None:
        self._file.write(text.encode())


def _along_a_curve(positions: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the rows in an order in which neighbours in the plane are mostly close (Morton's).

    So a part of the map needs few atlases, and numbers of neighbours differ little.
    """
    places = _places(positions).astype(np.uint64)
    keys = np.zeros(len(places), np.uint64)
    for bit in range(16):
        for axis in range(2):
            place = np.uint64(2 * bit + axis)
            keys |= ((places[:, axis] >> np.uint64(bit)) & np.uint64(1)) << place
    return np.argsort(keys, kind="stable")


def _places(positions: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return positions (n, 2) scaled to whole numbers from 0 to 65,535, centred."""
    if not len(positions):
        return np.zeros((0, 2), np.uint16)
    low, high = positions.min(axis=0), positions.max(axis=0)
    spread = float((high - low).max()) or 1.0
    scaled = (positions - (low + high) / 2) / spread + 0.5
    places: NDArray[np.uint16] = (scaled * _UNITS).round().astype(np.uint16)
    return places


def _coded(
    colouring: Colouring, order: NDArray[np.int64]
) -> tuple[dict[str, object], NDArray[np.uint32]]:
    """Return the facts of a colouring, the most frequent label first, and codes of the images."""
    counts = Counter(colouring.labels)
    labels = sorted(counts, key=lambda label: (not label, -counts[label], label))
    numbers = {label: number for number, label in enumerate(labels)}
    codes = np.array([numbers[label] for label in colouring.labels], np.uint32)
    facts: dict[str, object] = {
        "name": printable(colouring.name),
        "labels": [printable(label) for label in labels],
        "counts": [counts[label] for label in labels],
    }
    return facts, codes[order]


def _neighbours(
    found: ImageMap, order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint16], float]:
    """Return places in the page of the nearest images, their distances, and what 65,535 means."""
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    distances = found.distances[order]
    farthest = float(distances.max(initial=0.0)) or 1.0
    scaled = np.ceil(distances / farthest * _UNITS).clip(0, _UNITS)  # only equal ones are at 0
    return places[found.nearest[order]], scaled.astype(np.uint16), farthest


def _told(found: ImageMap) -> str:
    if len(found) < 2:
        return f"{len(found)} image{'' if len(found) else 's'}"
    return f"{len(found):,} images; {found.kept:.0%} of the 10 nearest of one are near it here"


def _json(facts: Mapping[str, object]) -> str:
    """Return JSON that ends no element."""
    return json.dumps(facts).replace("<", "\\u003c")


def page_policy(*, served: bool) -> str:
    """Return what a page may load: its own script and style, and pictures."""
    place = "'self'" if served else "file:"
    return (
        f"default-src 'none'; script-src '{_digest(_script())}'; "
        f"style-src '{_digest(_asset('map.css'))}'; "
        f"img-src data: blob: {place}; base-uri 'none'; form-action 'none'"
    )


def _script() -> str:
    return _asset("map_data.js") + _asset("map_view.js")


def _asset(name: str) -> str:
    return (files("imgsim.output") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
