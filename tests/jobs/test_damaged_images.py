"""Images of which not all pixels can be decoded: refused, or stored and marked."""

import shutil

import pytest
from PIL import Image

from imgsim import IngestSettings

ACCEPT = IngestSettings(damaged="accept")


@pytest.fixture
def cut(tmp_path, crops):
    """A folder with a whole image, and a JPEG and a PNG that lack their ends."""
    folder = tmp_path / "cut"
    folder.mkdir()
    shutil.copy(crops[0], folder / "whole.jpg")
    with Image.open(crops[1]) as image:
        image.save(folder / "a.png")
    shutil.copy(crops[2], folder / "b.jpg")
    for name in ("a.png", "b.jpg"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
    return folder


def marked(collection):
    return [image.path.rpartition("/")[2] for image in collection.images() if image.damaged]


def test_they_are_refused_unless_accepted(collection, cut):
    report = collection.ingest([cut])
    assert (report.added, len(report.refused), report.damaged) == (1, 2, 0)
    report = collection.ingest([cut], ACCEPT)
    assert (report.added, report.refused, report.damaged) == (2, (), 2)
    assert marked(collection) == ["a.png", "b.jpg"]
    assert collection.refused() == []


def test_they_stay_what_they_are(collection, cut):
    """Stored, marked, found, and encoded again as they were."""
    collection.ingest([cut], ACCEPT)
    assert collection.ingest([cut]).unchanged == 3
    shutil.copy(cut / "b.jpg", cut / "copy.jpg")
    assert collection.ingest([cut]).added == 1
    (cut / "a.png").rename(cut / "moved.png")
    assert collection.ingest([cut]).moved == 1
    assert marked(collection) == ["moved.png", "b.jpg", "copy.jpg"]
    (segment, *_) = (collection.path / "segments").glob("*.faiss")
    segment.write_bytes(b"")
    assert collection.repair().forgotten == ()
    assert collection.check(deep=True) == []
    assert marked(collection) == ["moved.png", "b.jpg", "copy.jpg"]


def test_a_whole_file_is_not_marked_any_more(collection, cut, crops):
    collection.ingest([cut], ACCEPT)
    shutil.copy(crops[2], cut / "b.jpg")
    assert collection.ingest([cut]).changed == 1
    assert marked(collection) == ["a.png"]


def test_the_command_says_so(collection, empty, cut, imgsim):
    collection.close()
    assert imgsim("-c", empty, "ingest", "--strict", cut).returncode == 20
    done = imgsim("-c", empty, "ingest", "--strict", "--damaged", "accept", cut)
    assert done.returncode == 0
    assert b"stored although damaged: 2; `imgsim info --damaged`" in done.stderr
    done = imgsim("-c", empty, "info", "--damaged")
    assert done.stdout.decode().splitlines() == [str(cut / "a.png"), str(cut / "b.jpg")]
    assert imgsim("-c", empty, "info", "--damaged", "--json").stdout.count(b'"damaged": true') == 2
    assert imgsim("-c", empty, "info", "--damaged", "--refused").returncode == 2
    assert imgsim("-c", empty, "ingest", "--damaged", "perhaps", cut).returncode == 2


def test_a_query_with_one_and_a_page_of_all(collection, empty, cut, imgsim, tmp_path):
    """Matches are drawn as they are stored, whatever the limits of the query."""
    Image.new("RGB", (200, 150), "red").save(cut / "large.png")
    collection.ingest([cut], ACCEPT)
    collection.close()
    query, page = ("-c", empty, "query", cut / "b.jpg", "-k", "9"), tmp_path / "page.html"
    assert imgsim(*query).returncode == 20
    done = imgsim(*query, "--damaged", "accept", "--max-pixels", "29999", "--html", page)
    assert done.returncode == 0, done.stderr
    assert page.read_text().count("data:image/") == 4
    assert "pixels exceed" not in page.read_text()


def test_another_policy():
    with pytest.raises(ValueError, match="damaged must be one of refuse, accept"):
        IngestSettings(damaged="perhaps")
