import csv
import io
import json
import os
import re
import shutil

import pytest
from PIL import Image

from tests.pictures import write_crops


@pytest.fixture
def stored(empty, pictures, imgsim):
    """A collection with a smaller copy of one photograph, and an exact one of another."""
    with Image.open(pictures / "astronaut-0.jpg") as image:
        image.resize((64, 64)).save(pictures / "small.jpg", quality=90)
    shutil.copy(pictures / "coffee-1.jpg", os.fsencode(pictures) + b"/a\n\xff<script>.jpg")
    assert imgsim("-q", "-c", empty, "ingest", pictures).returncode == 0
    return empty


def test_a_table_for_a_person(imgsim, stored):
    done = imgsim("-c", stored, "duplicates", "--radius", "1")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    begins = [line.split()[0] for line in lines if line]
    assert begins == [*("group", "kept", "exact"), *("group", "kept", "near")]
    assert b"2 groups among 38 images; 2 images that are not kept" in done.stderr


def test_json_lines_and_csv_have_the_same(imgsim, stored):
    lines = imgsim("-c", stored, "duplicates", "--radius", "1", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["group"], row["kind"]) for row in rows] == [
        *((1, "kept"), (1, "exact"), (2, "kept"), (2, "near"))
    ]
    assert rows[3]["path"].endswith("small.jpg")
    assert (rows[3]["width"], rows[3]["format"]) == (64, "JPEG")
    table = imgsim("-c", stored, "duplicates", "--radius", "1", "--format", "csv").stdout
    text = table.decode("utf-8", "surrogateescape")
    assert [row["kind"] for row in csv.DictReader(io.StringIO(text))] == [
        *("kept", "exact", "kept", "near")
    ]


def test_paths_for_a_script(imgsim, stored, pictures):
    found = imgsim("-q", "-c", stored, "duplicates", "--radius", "1", "--print0").stdout
    kept_or_not = {os.fsencode(pictures) + b"/a\n\xff<script>.jpg", os.fsencode(pictures)}
    first, second, rest = found.split(b"\0")
    assert first == os.fsencode(pictures / "coffee-1.jpg") or first in kept_or_not
    assert (second, rest) == (os.fsencode(pictures / "small.jpg"), b"")
    lines = imgsim("-q", "-c", stored, "duplicates", "--radius", "1", "--format", "paths").stdout
    assert lines == found.replace(b"\0", b"\n")


def test_a_page(imgsim, stored, tmp_path):
    page = tmp_path / "page.html"
    assert imgsim("-c", stored, "duplicates", "--radius", "1", "--html", page).returncode == 0
    text = page.read_text()
    assert text.count('<figure class="query">') == 2
    assert "kept · " in text
    assert not re.search(r"(?<!&lt;)<script", text)


def test_judged_pairs(imgsim, stored, pictures):
    pair = pictures / "astronaut-0.jpg", pictures / "small.jpg"

    def duplicates(*arguments):
        done = imgsim("-c", stored, "duplicates", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    duplicates("ignore", *pair)
    assert "small.jpg" not in duplicates("--radius", "1")
    assert duplicates("ignored").count("\t") == 1
    assert json.loads(duplicates("ignored", "--json"))["first_paths"]
    duplicates("unignore", *pair)
    assert duplicates("ignored") == ""
    assert "small.jpg" in duplicates("--radius", "1")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 51, b"38 different pictures"),
        (["--radius", "-1"], 2, b"radius must be"),
        (["--json", "--format", "csv"], 2, b"give one"),
        (["--json", "--print0"], 2, b"give one"),
        (["--across-folders", "--within-folder"], 2, b"give one"),
        (["--keep", "first-under"], 2, b"folders are needed"),
        (["--html", "page.txt"], 2, b"must end in"),
        (["--figure", "curves.gif"], 2, b"must end in"),
        (["ignore", "nowhere.jpg", "nowhere.png"], 21, b"no image is stored"),
    ],
)
def test_mistakes(imgsim, stored, arguments, code, message):
    if not arguments:  # copies do not count as different
        message = b"37 different pictures"
    done = imgsim("-c", stored, "duplicates", *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr


def test_the_distance_is_learnt_told_and_drawn(imgsim, empty, tmp_path):
    write_crops(tmp_path / "crops", each=18, side=64)
    imgsim("-q", "-c", empty, "ingest", tmp_path / "crops")
    first = imgsim("-c", empty, "duplicates", "--figure", tmp_path / "curves.svg")
    assert first.returncode == 0
    assert (tmp_path / "curves.svg").stat().st_size > 1_000
    assert b"from 108 of 108 images" in first.stderr
    assert b"saved again" in first.stderr
    again = imgsim("-c", empty, "duplicates")
    assert b"from 108 of 108 images" in again.stderr
    assert b"saved again" not in again.stderr
    assert b"learnt on" in imgsim("-c", empty, "info").stdout


def test_leaks(imgsim, stored, pictures, tmp_path):
    test = tmp_path / "test"
    test.mkdir()
    shutil.copy(pictures / "rocket-1.jpg", test)
    command = "-c", stored, "leaks", pictures, test, "--radius", "1"
    done = imgsim(*command)
    assert (done.returncode, done.stdout.split()[0]) == (0, b"exact")
    assert imgsim(*command, "--exit-code").returncode == 1
    row = json.loads(imgsim(*command, "--json").stdout)
    assert (row["path"], row["distance"]) == (str(test / "rocket-1.jpg"), 0.0)
    assert imgsim(*command, "--html", tmp_path / "l.html").returncode == 0
    assert b"in A" not in done.stderr
    (test / "cut.jpg").write_bytes((pictures / "rocket-2.jpg").read_bytes()[:900])
    assert imgsim(*command).returncode == 20
    assert imgsim("-c", stored, "leaks", test, pictures, "--radius", "1").returncode == 21
    assert imgsim("-c", stored, "leaks", test, test, "--radius", "1").returncode == 2
