import re
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgsim import EpochRecord, Match, OutputError, QueryResult
from imgsim.output.html import write_page
from imgsim.output.plots import draw_history, draw_matches, draw_reconstructions
from imgsim.output.selection import select


@pytest.fixture
def results(crops, tmp_path):
    nasty = str(tmp_path / '<script>alert(1) & "x" $a$.jpg')
    Image.new("RGB", (30, 60), "red").save(nasty, "JPEG")
    gone = str(tmp_path / "gone\udcff\n.jpg")
    matches = (
        Match(1, 7, crops[0], 0.0),
        Match(2, 9, nasty, 1.25),
        Match(3, 11, gone, 2.5),
    )
    return [QueryResult(crops[0], matches), QueryResult(nasty, matches[:1])]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.attributes = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def of(self, name):
        return [value for key, value in self.attributes if key == name]


def test_page_is_self_contained_and_escaped(results, tmp_path):
    assert write_page(tmp_path / "page.html", results) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Tags(text)
    assert "script" not in page.tags
    assert page.tags.count("section") == 2
    shown = [("query", "p0"), ("match", "p0"), ("match", "p1"), ("match",)]
    shown += [("query", "p1"), ("match", "p0")]
    assert page.of("class") == list(chain.from_iterable(shown))
    assert not page.of("src")
    assert text.count("url(") == text.count("url(data:image/jpeg;base64,") == 2  # each image once
    assert "No such file or directory" in text
    assert re.search(r"2 · 1\.25", text)
    assert "&lt;script&gt;" in text
    assert text.count("30 &times; 60") == 2
    assert page.of("title").count(results[0].query) == 3  # the whole path on hover


def test_what_is_not_embedded_is_loaded_when_it_is_looked_at(results, tmp_path):
    write_page(tmp_path / "page.html", results, embedded=1)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Tags(text)
    assert page.of("loading") == ["lazy", "lazy"]
    assert page.of("src") == [Path(results[1].query).as_uri()] * 2
    assert text.count("30 &times; 60") == 2


def test_many_matches_share_a_figure_evenly_and_the_rest_is_counted(results, crops, tmp_path):
    many = tuple(Match(i, i, crops[i % 4], float(i)) for i in range(1, 1_001))
    told = []
    query = QueryResult(crops[0], many)
    drawing = draw_matches(tmp_path / "figure.png", [query, query], lambda *now: told.append(now))
    assert drawing.left_out == 2_002 - 240
    assert told == [(done, 240) for done in range(1, 241)]
    with Image.open(tmp_path / "figure.png") as image:
        width, height = image.size
    assert width < 2_500
    assert height / width == pytest.approx(24 * 1.24 / 11, rel=0.01)
    assert select([query] * 50, 240).left_out == 50 * 1_001 - 21 * 11


def test_page_of_no_results(tmp_path):
    write_page(tmp_path / "page.html", [])
    assert "<section" not in (tmp_path / "page.html").read_text()


def test_figure_is_a_grid_with_the_query_first(results, tmp_path):
    draw_matches(tmp_path / "figure.png", results)
    with Image.open(tmp_path / "figure.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    assert width / 4 == pytest.approx(height / 2, rel=0.4)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(axis=2)
    quarters = red[height // 2 :, : width // 4], red[: height // 2, width // 2 : 3 * width // 4]
    assert all(quarter.mean() > 0.1 for quarter in quarters)  # the red picture, twice
    assert not red[: height // 2, : width // 4].any()


def test_figure_without_results_or_matches(crops, tmp_path):
    draw_matches(tmp_path / "none.png", [])
    draw_matches(tmp_path / "alone.svg", [QueryResult(crops[0], ())])
    assert (tmp_path / "none.png").stat().st_size
    assert (tmp_path / "alone.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("name", ["figure.docx", "figure", "gone/figure.png"])
def test_figures_that_cannot_be_written(results, tmp_path, name):
    with pytest.raises(OutputError):
        draw_matches(tmp_path / name, results)
    with pytest.raises(OutputError):
        write_page(tmp_path / "gone" / "page.html", results)


def test_training_pictures(tmp_path):
    history = [EpochRecord(i, 1 / i, 2 / i, 1.0, 10.0) for i in (1, 2, 3)]
    draw_history(tmp_path / "history.png", history)
    images = np.zeros((3, 16, 16, 3), np.uint8)
    draw_reconstructions(tmp_path / "reconstructions.png", images, images + 255)
    for name in ("history.png", "reconstructions.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200
