"""Time the map of a collection, and its page in a headless Chromium without a GPU.

The page must cause no error in the console and no request. Frames are counted while the map is
dragged and zoomed by events of a mouse. With ``--against``, a bundle that defines
``createScatterplot`` of regl-scatterplot draws the same points in a page of its own.
"""

import argparse
import base64
import resource
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from browser import Tab, chromium
from measure import print_table, write_json

from imgsim import Collection, ImageMap, MapMethod

STEPS = 90
COUNT = """
var times = [], counting = true;
function count(now) { times.push(now); if (counting) requestAnimationFrame(count); }
count(performance.now());
"""
RIVAL = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }}</style>
<canvas id="map" style="width: 100vw; height: 100vh"></canvas><script>{script}</script><script>
const bytes = Uint8Array.from(atob("{points}"), (c) => c.charCodeAt(0));
const flat = new Float32Array(bytes.buffer), n = flat.length / 2;
const canvas = document.getElementById("map");
const plot = createScatterplot({{ canvas, width: innerWidth, height: innerHeight, pointSize: 3 }});
const [x, y] = [0, 1].map((axis) => Array.from({{ length: n }}, (_, i) => flat[2 * i + axis]));
plot.draw({{ x, y }}).then(() => performance.mark("drawn"));
</script>"""


@dataclass(frozen=True)
class Smoothness:
    """Milliseconds between frames: the median, and what 95 % are below; ``first`` to draw."""

    first: float
    median: float
    slow: float


def main() -> None:
    """Make the map, write it, look at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--method", choices=("linear", "fast", "good"), default="fast")
    parser.add_argument("--against", type=Path, metavar="JS", help="a bundle of regl-scatterplot")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "map.html"
        found, stages = made(options.collection, options.method, page)
        shown = {"drag, points": "everything()", "zoomed in, pictures": "zoom(7); zoom(1)"}
        results = {name: measured(page, "complete", script) for name, script in shown.items()}
        size = page.stat().st_size / 1e6
        if options.against:
            rival = Path(scratch) / "rival.html"
            write_rival(rival, found, options.against)
            results["regl-scatterplot, points"] = measured(rival, "drawn", "0")
    print_table([("stage", "wall s", "CPU s"), *((k, *v) for k, v in stages.items())])
    header = "page", "first drawing, ms", "frame, ms", "95 % below, ms"
    print_table([header, *((k, r.first, r.median, r.slow) for k, r in results.items())])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(found):,} images, {found.kept:.3f} kept, {size:.1f} MB, {memory:,.0f} MiB at most")
    facts = {name: vars(each) for name, each in results.items()}
    write_json(
        options.json,
        {
            "images": len(found),
            "kept": found.kept,
            "page_mb": size,
            "memory_mib": memory,
            "stages": stages,
            "pages": facts,
        },
    )


def made(
    path: Path, method: MapMethod, page: Path
) -> tuple[ImageMap, dict[str, tuple[float, float]]]:
    """Return the map of a collection, and the wall and CPU seconds of each stage."""
    ended = {"": (time.perf_counter(), time.process_time())}

    def note(stage: str, done: int, total: int) -> None:
        ended[stage] = time.perf_counter(), time.process_time()

    with Collection.open(path) as collection:
        found = collection.curation.map(method=method, on_progress=note)
        collection.curation.export_map(page, found, on_progress=note)
    note("page", 1, 1)
    stages = list(ended.items())
    return found, {
        name: (wall - before, cpu - spent)
        for (_, (before, spent)), (name, (wall, cpu)) in pairwise(stages)
    }


def measured(page: Path, mark: str, script: str) -> Smoothness:
    """Return how smoothly a page follows the mouse, once ``script`` has run."""
    with chromium() as tab:
        tab.open(page, mark)
        first = tab.run("performance.getEntriesByName('drawn')[0].startTime")
        tab.run(script)
        time.sleep(3)  # pictures arrive
        tab.run(COUNT)
        move(tab)
        times = tab.run("counting = false, times")
        if mark == "complete" and (tab.errors or tab.requests):  # it is ours
            raise RuntimeError(f"{page.name}: {tab.errors} {tab.requests}")
    frames = np.diff(times)
    return Smoothness(first, float(np.median(frames)), float(np.percentile(frames, 95)))


def move(tab: Tab) -> None:
    """Drag the map in a circle, and zoom in and out again, by events of a mouse."""
    mouse = "Input.dispatchMouseEvent"
    tab.call(mouse, type="mousePressed", x=700, y=400, button="left", clickCount=1)
    for angle in np.linspace(0, 2 * np.pi, STEPS):
        x, y = 600 + 100 * np.cos(angle), 400 + 100 * np.sin(angle)
        tab.call(mouse, type="mouseMoved", x=x, y=y, button="left", buttons=1)
    tab.call(mouse, type="mouseReleased", x=700, y=400, button="left", clickCount=1)
    for step in range(STEPS):
        way = -40 if step < STEPS // 2 else 40
        tab.call(mouse, type="mouseWheel", x=640, y=450, deltaX=0, deltaY=way)


def write_rival(path: Path, found: ImageMap, bundle: Path) -> None:
    """Write a page in which regl-scatterplot draws the same points."""
    low, high = found.positions.min(axis=0), found.positions.max(axis=0)
    points = ((found.positions - low) / (high - low).max() * 1.8 - 0.9).astype("<f4")
    script = bundle.read_text(encoding="utf-8").replace("</script", "<\\/script")
    text = base64.b64encode(points.tobytes()).decode()
    path.write_text(RIVAL.format(script=script, points=text), encoding="utf-8")


if __name__ == "__main__":
    main()
