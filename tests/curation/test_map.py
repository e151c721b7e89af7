"""The map of a collection, and the files that it is written to."""

import base64
import gzip
import hashlib
import html
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from imgsim import Collection, ExtraMissing, LabelError, OutputError, SearchFilter
from tests.conftest import make_collection
from tests.pictures import write_crops

HOSTILE = (b"<script>alert(1)<!--.jpg", b"new\nline & 'quote'.jpg", b"not-utf8-\xff.jpg")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A collection of sixty photographs in two folders, and its map."""
    folder = tmp_path_factory.mktemp("map")
    crops = write_crops(folder / "photos" / "a", each=10)
    (folder / "photos" / "b").mkdir()
    for path in crops[:25]:
        shutil.move(path, folder / "photos" / "b")
    with Collection.open(make_collection(folder / "c.imgsim")) as collection:
        collection.ingest([folder / "photos"])
        yield collection, collection.curation.map()


class Page:
    """What a page says to its script, and the script itself."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.elements = dict(re.findall(r'<script [^>]*id="([^"]+)">([^<]*)</script>', self.text))
        self.facts = json.loads(self.elements["data-facts"])

    def array(self, name: str, kind: str):
        content = gzip.decompress(base64.b64decode(self.elements[f"data-{name}"]))
        return np.frombuffer(content, np.dtype(kind))

    def paths(self) -> list[str]:
        return [os.fsdecode(path) for path in self.array("paths", "u1").tobytes().split(b"\0")[:-1]]


def test_neighbours_are_the_exact_ones_and_stay_near(mapped):
    collection, found = mapped
    assert list(found.paths) == sorted(found.paths, key=os.fsencode)
    assert (found.positions.dtype, found.positions.shape) == (np.float32, (60, 2))
    lists = {image.id: image.matches for image in collection.neighbours(10)}
    for row, number in enumerate(found.ids.tolist()):
        assert [int(found.ids[at]) for at in found.nearest[row]] == [m.id for m in lists[number]]
        np.testing.assert_allclose(
            found.distances[row], [m.distance for m in lists[number]], rtol=1e-6
        )
    apart = cdist(found.positions, found.positions)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, :10]
    shares = [len({*a} & {*b}) / 10 for a, b in zip(near, found.nearest, strict=True)]
    assert found.kept == pytest.approx(np.mean(shares), abs=1e-6)
    assert found.kept > 0.7


def test_the_same_seed_gives_the_same_map_and_another_one_does_not(mapped):
    collection, found = mapped
    again, other = collection.curation.map(), collection.curation.map(seed=1)
    assert np.array_equal(found.positions, again.positions)
    assert not np.array_equal(found.positions, other.positions)


def test_folders_are_left_out(mapped):
    collection, _ = mapped
    folder = collection.path.parent / "photos"
    kept = collection.curation.map(SearchFilter(under=folder / "b"))
    rest = collection.curation.map(SearchFilter(not_under=folder / "b"))
    assert (len(kept), len(rest)) == (25, 35)
    assert all(Path(path).parent.name == "b" for path in kept.paths)
    assert int(kept.nearest.max()) < 25


def test_the_page_has_what_its_script_needs(mapped, tmp_path):
    collection, found = mapped
    labels = {path: "<b>&" if "astro" in path else "rest" for path in found.paths[:50]}
    assert collection.curation.export_map(tmp_path / "m.html", found, {"kind": labels}) == 0
    page = Page(tmp_path / "m.html")
    paths, order = page.paths(), {path: row for row, path in enumerate(found.paths)}
    rows = np.array([order[path] for path in paths])
    assert sorted(order.values()) == sorted(rows.tolist())
    near = page.array("nearest", "<i4").reshape(60, 10)
    assert np.array_equal(rows[near], found.nearest[rows])
    distances = page.array("distances", "<u2").reshape(60, 10) / 65_535 * page.facts["farthest"]
    np.testing.assert_allclose(distances, found.distances[rows], atol=page.facts["farthest"] / 6e4)
    places = page.array("places", "<u2").reshape(60, 2).astype(float)
    spread = np.ptp(found.positions, axis=0).max() / 65_535
    np.testing.assert_allclose(
        cdist(places, places) * spread,
        cdist(found.positions[rows], found.positions[rows]),
        atol=2 * spread,
    )
    kinds, folders = page.facts["colourings"]
    assert (kinds["name"], folders["name"]) == ("kind", "folder")
    assert kinds["labels"] == ["rest", "<b>&", ""]
    assert folders == {"name": "folder", "labels": ["a", "b"], "counts": [35, 25]}
    codes = page.array("codes-0", "<u4")
    assert [kinds["labels"][code] for code in codes] == [labels.get(path, "") for path in paths]


def test_thumbnails_are_where_the_script_looks_for_them(mapped, tmp_path):
    collection, found = mapped
    collection.curation.export_map(tmp_path / "m.html", found)
    page = Page(tmp_path / "m.html")
    sizes = page.array("sizes", "u1").reshape(60, 2)
    side, columns = page.facts["side"], page.facts["columns"]
    with Image.open(io.BytesIO(base64.b64decode(page.elements["atlas-0"]))) as atlas:
        for image, path in enumerate(page.paths()):
            left, top = image % columns * side, image // columns * side
            width, height = sizes[image].tolist()
            tile = atlas.crop((left, top, left + width, top + height))
            with Image.open(path) as opened:
                true = opened.convert("RGB").resize((width, height), Image.Resampling.BOX)
            assert np.abs(np.asarray(tile, float) - np.asarray(true, float)).mean() < 15


def test_the_page_loads_nothing_and_runs_only_its_own_script(mapped, tmp_path):
    collection, found = mapped
    collection.curation.export_map(tmp_path / "m.html", found)
    page = Page(tmp_path / "m.html")
    own = re.sub(r'<script type="text/plain"[^<]*</script>', "", page.text)
    assert not re.search(r"https?:|//[a-z]+\.|\bsrc=|@import|url\(|eval|Function\(", own)
    (script,) = re.findall(r"<script>(.*?)</script>", own, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", own, re.DOTALL)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', own)
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy).split(";"))
    assert rules["default-src"] == "'none'"
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_hostile_names_stay_data(collection, crops, tmp_path):
    folder = tmp_path / "<img src=x>"
    folder.mkdir()
    names = [os.path.join(os.fsencode(folder), name) for name in HOSTILE]
    for source, name in zip(crops, names, strict=False):
        shutil.copy(source, name)
    (folder / "<i>").mkdir()
    shutil.copy(crops[5], folder / "<i>")
    collection.ingest([folder])
    found = collection.curation.map()
    os.unlink(names[0])
    assert collection.curation.export_map(tmp_path / "m.html", found) == 1
    page = Page(tmp_path / "m.html")
    assert {*map(os.fsdecode, names)} < {*page.paths()}
    assert "<script>alert" not in page.text
    assert "<i>" not in page.text
    assert page.facts["colourings"][0]["labels"] == [".", "<i>"]
    collection.curation.export_map(tmp_path / "m.parquet", found)
    table = pq.read_table(tmp_path / "m.parquet").to_pydict()
    assert {*names} < {*table["path_bytes"]}
    assert collection.curation.export_map(tmp_path / "m.png", found) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_images_have_a_map(collection, crops, tmp_path, count):
    collection.ingest(crops[:count])
    found = collection.curation.map()
    assert found.positions.shape == (count, 2)
    assert found.nearest.shape == (count, max(0, count - 1))
    assert found.kept == 1.0
    for name in ("m.html", "m.png", "m.parquet"):
        assert collection.curation.export_map(tmp_path / name, found) == 0
    assert Page(tmp_path / "m.html").facts["n"] == count
    assert pq.read_table(tmp_path / "m.parquet").num_rows == count


def test_equal_images_do_not_stop_it(collection, crops, tmp_path):
    folder = tmp_path / "copies"
    folder.mkdir()
    for number in range(60):
        shutil.copy(crops[0], folder / f"{number}.jpg")
    collection.ingest([folder])
    found = collection.curation.map()
    assert np.isfinite(found.positions).all()
    collection.curation.export_map(tmp_path / "m.html", found)


def test_a_map_becomes_a_picture_and_a_table(mapped, tmp_path):
    collection, found = mapped
    collection.curation.export_map(tmp_path / "m.png", found)
    with Image.open(tmp_path / "m.png") as picture:
        assert len(picture.getcolors(1 << 24)) > 1_000
    collection.curation.export_map(tmp_path / "m.parquet", found)
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column_names == ["image_id", "path", "x", "y", "path_bytes"]
    assert table["image_id"].to_pylist() == found.ids.tolist()
    assert np.array_equal(np.column_stack([table["x"], table["y"]]), found.positions)
    with pytest.raises(OutputError, match="must end in"):
        collection.curation.export_map(tmp_path / "m.gif", found)


def test_without_its_package_it_says_what_to_install(mapped, monkeypatch):
    collection, _ = mapped
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'imgsim\[map\]'"):
        collection.curation.map()
    assert len(collection.curation.map(method="linear")) == 60


def test_the_command_writes_all_and_prints_positions(mapped, imgsim, tmp_path):
    collection, found = mapped
    table = "path,label\n" + "".join(f"{Path(path).name},x\n" for path in found.paths)
    folder = collection.path.parent / "photos" / "a"
    (folder / "labels.csv").write_text(table)
    done = imgsim(
        *("-c", collection.path, "map", "-o", tmp_path / "m.html", "-o", tmp_path / "m.parquet"),
        *("--labels", folder / "labels.csv", "--format", "jsonl"),
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image_id"] for row in rows] == found.ids.tolist()
    assert (tmp_path / "m.parquet").exists()
    assert Page(tmp_path / "m.html").facts["colourings"][0]["counts"] == [35, 25]
    last = done.stderr.decode().splitlines()
    assert f"60 images; {found.kept:.0%} of their 10 nearest are near them on the map" in last
    assert imgsim("-c", collection.path, "map").returncode == 2
    with pytest.raises(LabelError):
        collection.curation.labels(folder / "labels.csv", "other")
