"""Hostile names: a person sees them escaped, in one line; a script gets them byte for byte."""

import csv
import io
import json
import os
import shutil

import pytest

from imgsim.text import printable, short_name
from tests.conftest import GOLDEN

NAMES = [
    b"esc\x1b[2J\x1b]0;owned\x07.jpg",
    b"line\nrefused: more.jpg",
    b"tab\tcarriage\r.jpg",
    b"latin \xe9 \xff.jpg",
    "c1 \x85\x9b31m.jpg".encode(),
    "turned \u202egpj.exe".encode(),
    "isolated \u2066a\u2067b\u2068c\u2069 \u200e\u200f.jpg".encode(),
    "separated \u2028\u2029 \ufeff.jpg".encode(),
    b'=1+1,"quoted";\'.jpg',
    b"-k 5.jpg",
    b"<b onclick=x>&amp;.jpg",
]
HARMFUL = {
    *map(chr, range(32)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff",
}


@pytest.fixture
def folder(tmp_path, crops):
    """A folder whose own name is hostile too, of pictures with hostile names, and a bad one."""
    path = tmp_path / "folder \u202e\x1b[31m"
    path.mkdir()
    for name, crop in zip(NAMES, crops, strict=False):
        shutil.copy(crop, os.path.join(os.fsencode(path), name))
    (path / "bad \x1b[1m\n\u202e.jpg").write_text("no picture")
    return path


@pytest.fixture
def stored(empty, folder, imgsim):
    done = imgsim("-c", empty, "ingest", folder)
    assert b"11 added" in done.stderr
    check(done)
    return empty


def check(done, between=""):
    """Assert that what a command wrote for a person is lines, which end where the command says."""
    for stream in (done.stdout, done.stderr):
        text = stream.decode()  # valid UTF-8
        assert not (HARMFUL - {"\n", *between}) & set(text)
        assert not [line for line in text.split("\n") if line.startswith("refused: more.jpg")]
        assert "Traceback" not in text


def paths(folder):
    return {os.path.join(os.fsencode(folder), name) for name in NAMES}


def test_every_line_for_a_person_is_escaped(stored, folder, imgsim, tmp_path):
    target = "f \x1b[31m\u202e"
    for label in ("label \u202e\x1b[", "other"):
        shutil.copytree(folder, tmp_path / "all" / label)
    os.unlink(os.path.join(os.fsencode(folder), NAMES[0]))
    for arguments in (
        ["-v", "query", folder, "--figure", f"{target}.png", "--html", f"{target}.html"],
        ["query", folder / "gone \x1b\u202e.jpg", folder / "bad \x1b[1m\n\u202e.jpg"],
        ["info"],
        ["evaluate", tmp_path / "all", "--figure", f"{target}.png"],
        ["export", "neighbours", "-o", f"{target}.csv"],
        ["export", "neighbours", "-o", f"{target}.\x1b"],
        ["encoder", "remove", target],
        ["ingest", "--from-file", target],
        ["remove", f"{target}\n"],
        ["relocate", folder, f"{target}\n"],
        ["prune", "--dry-run"],
        ["check", "--deep"],
        ["-c", f"{target}\n", "info"],
    ):
        check(imgsim("-c", stored, *arguments))
    check(imgsim("-c", stored, "info", "--refused"), between="\t")


def test_damage_is_told_in_a_line(folder, imgsim):
    path = shutil.copytree(GOLDEN / "0001.imgsim", folder / "c\n\x1b")
    next(path.glob("segments/*.faiss")).unlink()
    done = imgsim("-c", path, "check")
    assert done.returncode == 14
    check(done)
    assert r"c\n\x1b" in done.stdout.decode()


def test_a_script_gets_names_byte_for_byte(stored, folder, imgsim):
    query = ["-c", stored, "query", os.path.join(os.fsencode(folder), NAMES[0]), "-k", "11"]
    found = imgsim(*query, "--format", "paths", "-0").stdout
    assert set(found.split(b"\0")) == paths(folder) | {b""}
    found = imgsim(*query, "--format", "csv").stdout
    for rows in (
        csv.DictReader(io.StringIO(found.decode("utf-8", "surrogateescape"), newline="")),
        map(json.loads, imgsim(*query, "--json").stdout.splitlines()),
    ):
        assert {os.fsencode(row["neighbour_path"]) for row in rows} == paths(folder)
    assert imgsim("-c", stored, "export", "neighbours", "-o", "n.csv").returncode == 0


def test_a_page_keeps_the_order_of_its_text(stored, folder, imgsim, tmp_path):
    shutil.copy(folder / "-k 5.jpg", folder / "חתול 1.jpg")
    done = imgsim("-c", stored, "query", folder, "--html", tmp_path / "page.html")
    assert done.returncode == 22  # of the bad one
    page = (tmp_path / "page.html").read_text()
    assert not (HARMFUL - {"\n"}) & set(page)
    assert "<b onclick" not in page
    assert "<br><bdi>חתול 1.jpg</bdi><br>" in page
    assert r"turned \u202egpj.exe" in page


def test_wide_names_are_cut_sooner():
    assert short_name("/a/" + 12 * "猫") == 12 * "猫"
    assert short_name("/a/" + 20 * "猫" + ".jpg") == 5 * "猫" + "…" + 4 * "猫" + ".jpg"
    assert short_name("/a/" + 24 * "a") == 24 * "a"
    assert short_name("/a/" + 25 * "a") == 11 * "a" + "…" + 12 * "a"


def test_spaces_and_joiners_are_shown():
    """Names of screenshots on macOS, of Japanese files, Persian words and joined emojis."""
    for name in (
        "3\u202fPM\xa0.png",
        "a\u3000b",
        "\u0645\u06cc\u200c\u062e",
        "\U0001f468\u200d\U0001f469",
    ):
        assert printable(name) == name
    assert printable("\u200b\u200e\u2028\ud800\n") == "\\u200b\\u200e\\u2028\\ud800\\n"
