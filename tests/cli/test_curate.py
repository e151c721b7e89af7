import csv
import io
import json
import os
import shutil

import pytest
from PIL import Image

from imgsim import Collection, CollectionDamaged
from tests.conftest import alter


@pytest.fixture
def stored(empty, pictures, imgsim):
    """The path of a collection, with a blank picture whose name has markup and two lines."""
    Image.new("RGB", (40, 40), "white").save(pictures / "<script>\nx.png")
    done = imgsim("-c", empty, "ingest", pictures)
    assert done.returncode == 0, done.stderr
    return empty


def rows_of(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_outliers_in_each_form(stored, pictures, imgsim, tmp_path):
    page = tmp_path / "p.html"
    table = imgsim("-c", stored, "outliers", "-n", "40", "--html", page)
    assert table.returncode == 0
    lines = table.stdout.decode().splitlines()
    assert lines[0].split() == ["rank", "distance", "deviations", "look", "path"]
    assert len(lines) == 38
    (blank,) = [line for line in lines if "blank" in line]
    assert blank.endswith("<script>\\nx.png")
    assert b"half of 37 images have 5 others within" in table.stderr
    assert "&lt;script&gt;" in page.read_text()
    assert "<script>" not in page.read_text()
    done = imgsim("-c", stored, "outliers", "-n", "40", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert [int(row["rank"]) for row in rows] == list(range(1, 38))
    assert {row["path"] for row in rows} == {str(path) for path in pictures.iterdir()}


def test_a_sample_goes_where_it_is_told(stored, imgsim, tmp_path):
    rows = rows_of(imgsim("-c", stored, "sample", "-n", "37", "--format", "jsonl"))
    paths = [row["path"] for row in rows]
    os.unlink(paths[3])
    places = ["-o", tmp_path / "list", "-0", "--copy-to", tmp_path / "copies"]
    done = imgsim("-c", stored, "sample", "-n", "37", *places, "--link-to", tmp_path / "links")
    assert done.returncode == 21
    assert done.stdout == b""
    assert done.stderr.count(b"left out: ") == 2
    assert (tmp_path / "list").read_bytes().split(b"\0")[:-1] == [*map(os.fsencode, paths)]
    assert len(os.listdir(tmp_path / "copies")) == len(os.listdir(tmp_path / "links")) == 36
    done = imgsim("-c", stored, "sample", "--copy-to", tmp_path / "copies")
    assert done.returncode == 2
    assert b"is not empty" in done.stderr


def test_clusters_in_each_form(stored, imgsim, tmp_path):
    table = imgsim("-c", stored, "clusters", "-n", "4", "--html", tmp_path / "p.html")
    assert table.returncode == 0
    lines = table.stdout.decode().splitlines()
    assert len(lines) == 5
    rows = rows_of(imgsim("-c", stored, "clusters", "-n", "4", "--format", "jsonl"))
    assert len(rows) == 37
    first = [row["path"] for row in rows if row["place"] == 1]
    assert [line.rpartition("  ")[2] for line in lines[1:]] == [
        path.replace("\n", "\\n") for path in first
    ]
    assert (tmp_path / "p.html").read_text().count("<section>") == 4
    assert imgsim("-c", stored, "clusters", "--dense", "-n", "2").returncode == 2


def test_wrong_labels_in_each_form(empty, pictures, imgsim, tmp_path):
    for path in sorted(pictures.iterdir()):
        folder = tmp_path / "labelled" / path.name.partition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    command = ["-c", empty, "mislabelled", tmp_path / "labelled"]
    table = imgsim(*command, "-n", "3", "--html", tmp_path / "p.html")
    assert table.returncode == 0, table.stderr
    lines = table.stdout.decode().splitlines()
    assert lines[0].split() == ["rank", "sure", "label", "proposed", "path"]
    assert len(lines) == 4
    assert b"can only be told roughly" in table.stderr
    rows = rows_of(
        imgsim(*command, "--format", "jsonl", "--not-under", tmp_path / "labelled/coffee")
    )
    assert len(rows) == 30
    kinds = {"astronaut", "chelsea", "hubble_deep_field", "motorcycle_left", "rocket"}
    assert {row["label"] for row in rows} == kinds
    assert (tmp_path / "p.html").read_text().count("<section>") == 3
    assert imgsim("-c", empty, "mislabelled", pictures).returncode == 50


def test_nothing_stored_and_a_damaged_catalog(empty, crops, imgsim):
    done = imgsim("-c", empty, "clusters")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    with Collection.open(empty) as collection:
        collection.ingest(crops[:3])
        alter(empty, "UPDATE images SET width = width + 1 WHERE id = 3")
        for ask in (collection.curation.outliers, collection.curation.clusters):
            with pytest.raises(CollectionDamaged):
                ask()
