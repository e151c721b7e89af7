import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from imgsim import EpochRecord, Match, OutputError, QueryResult
from imgsim.output.html import write_page
from imgsim.output.plots import draw_history, draw_matches, draw_reconstructions


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


class Images(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.sources = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k == "src"]


def test_page_is_self_contained_and_escaped(results, tmp_path):
    write_page(tmp_path / "page.html", results)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    parser = Images()
    parser.feed(text)
    assert "script" not in parser.tags
    assert parser.tags.count("section") == 2
    assert len(parser.sources) == 5
    assert all(source.startswith("data:image/jpeg;base64,") for source in parser.sources)
    assert "No such file or directory" in text
    assert re.search(r"2 &middot; 1\.25", text)
    assert "&lt;script&gt;" in text


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
