"""Names in scripts that the usual font lacks: another font is found, or it is said that none is."""

import os
import shutil
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from imgsim.output.plots import draw_matches, draw_retrieved
from imgsim.results import Match, QueryResult
from imgsim.scores import RetrievalExample

HAN, RARE = "\u732b", "\U0001309e"  # a cat; a hieroglyph


def write_font(path: Path, family: str, characters: str) -> Path:
    """Write a font whose characters are all squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = {ord(character): f"u{ord(character):x}" for character in characters}
    order = [".notdef", *names.values()]
    font = FontBuilder(1_000)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(names)
    font.setupGlyf(dict.fromkeys(order, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(order, (1_000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a font, and an installation without any but matplotlib's own."""
    paths = []
    own = [e for e in font_manager.fontManager.ttflist if "mpl-data" in str(e.fname)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)

    def install(family, characters):
        paths.append(str(write_font(tmp_path / f"{family}.ttf", family, characters)))

    return install


def named(folder, crop, *names):
    """Return results for copies of a picture under some names."""
    paths = [shutil.copy(crop, folder / f"{name}.jpg") for name in names]
    return [QueryResult(str(path), (Match(1, 1, str(path), 0.0),)) for path in paths]


def draw(path, results):
    """Return what is said of a figure, and its bytes."""
    drawing = draw_matches(path, results)
    assert drawing.left_out == 0
    return drawing.missing, path.read_bytes()


def test_the_usual_font_is_enough_for_most(installed, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("looked for fonts"))
    results = named(tmp_path, crops[0], "a b", "Åé", "Жук", "γάτα", "חתול", "قطة")
    assert draw(tmp_path / "f.pdf", results)[0] == ""


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_a_font_that_has_the_character_is_used(installed, crops, tmp_path, suffix):
    results = named(tmp_path, crops[0], f"a {HAN}")
    missing, without = draw(tmp_path / f"1.{suffix}", results)
    assert missing == HAN
    installed("Squares", HAN)
    missing, drawn = draw(tmp_path / f"2.{suffix}", results)
    assert missing == ""
    assert drawn != without
    if suffix == "pdf":
        assert b"Squares" in drawn
        assert b"DejaVuSans" in drawn


def test_as_few_fonts_as_have_them(installed, crops, tmp_path):
    installed("Alone", HAN)
    installed("Both", HAN + RARE)
    installed("Neither", "a")
    missing, drawn = draw(tmp_path / "f.pdf", named(tmp_path, crops[0], HAN, RARE + HAN, "\u732c"))
    assert missing == "\u732c"
    assert b"Both" in drawn
    assert b"Alone" not in drawn
    assert b"Neither" not in drawn


def test_fonts_that_are_none_do_not_matter(installed, crops, tmp_path, monkeypatch):
    installed("Squares", HAN)
    bad = tmp_path / "bad.ttf"
    bad.write_bytes(b"\0\1\0\0 no font")
    good = font_manager.findSystemFonts()
    paths = [str(bad), str(tmp_path / "gone.ttf"), *good]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    assert draw(tmp_path / "f.png", named(tmp_path, crops[0], HAN))[0] == ""


def test_labels_count_too(installed, crops, tmp_path):
    example = RetrievalExample(crops[0], HAN, (crops[1],), (RARE,))
    assert draw_retrieved(tmp_path / "f.png", [example]).missing == HAN + RARE


def test_the_command_says_it_once_and_finds_a_font_that_came_later(empty, crops, tmp_path, imgsim):
    for number, name in enumerate((HAN, f"{HAN}{RARE}", "plain")):
        shutil.copy(crops[number], tmp_path / f"{name}.jpg")
    home = tmp_path / "home"
    (home / ".fonts").mkdir(parents=True)
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    assert imgsim("-c", empty, "ingest", tmp_path).returncode == 0
    query = ["-c", empty, "query", tmp_path / "plain.jpg", "--figure", "f.png"]
    told = imgsim(*query, env=environment).stderr.decode().splitlines()
    assert told[0] == "figure: f.png"
    write_font(home / ".fonts" / "late.ttf", "Late", HAN + RARE)
    assert imgsim(*query, env=environment).stderr.decode().splitlines() == ["figure: f.png"]
    if len(told) > 1:  # the machine may have fonts for them
        assert told[1].startswith(f"no installed font has {HAN}{RARE}: the figure has boxes for")
    assert len(told) <= 2
