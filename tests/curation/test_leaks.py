import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from imgsim import ImageNotFound
from imgsim.curation_options import DuplicateSettings

NEAR = DuplicateSettings(radius=1.0)


@pytest.fixture
def halves(collection, pictures, tmp_path):
    """A folder of stored photographs, and one with others and three copies of them."""
    test = tmp_path / "test"
    test.mkdir()
    for path in sorted(pictures.glob("rocket-*")):
        shutil.move(path, test)
    with Image.open(pictures / "chelsea-1.jpg") as image:
        image.resize((70, 70)).save(test / "small.jpg", quality=60)
        ImageOps.mirror(image).save(test / "mirrored.png")
    shutil.copy(pictures / "coffee-0.jpg", test / "same.jpg")
    collection.ingest([pictures])
    return pictures, test


def leaks(collection, halves, **chosen):
    report = collection.curation.leaks(*halves, replace(NEAR, **chosen))
    return [(each.kind, Path(each.path).name, Path(each.source).name) for each in report.leaks]


EXPECTED = [("exact", "same.jpg", "coffee-0.jpg"), ("near", "small.jpg", "chelsea-1.jpg")]


def test_the_copies_are_found_and_no_others(collection, halves):
    assert leaks(collection, halves) == EXPECTED


def test_stored_or_not_it_is_the_same(collection, halves):
    collection.ingest([halves[1]])
    assert leaks(collection, halves) == EXPECTED


def test_a_stored_image_that_changed_is_looked_at_anew(collection, halves):
    collection.ingest([halves[1]])
    shutil.copy(halves[0] / "coffee-1.jpg", halves[1] / "same.jpg")
    assert ("exact", "same.jpg", "coffee-1.jpg") in leaks(collection, halves)


def test_mirrored(collection, halves):
    found = leaks(collection, halves, mirror=True, rotate=True)
    assert found == [("posed", "mirrored.png", "chelsea-1.jpg"), *EXPECTED]


def test_a_folder_in_the_other_one(collection, halves):
    inner = halves[0] / "inner"
    shutil.move(halves[1], inner)
    collection.ingest([halves[0]])
    assert leaks(collection, (halves[0], inner)) == EXPECTED
    with pytest.raises(ValueError, match="is in"):
        leaks(collection, (inner, halves[0]))


def test_images_of_the_source_must_be_stored(collection, halves, tmp_path):
    shutil.copy(halves[1] / "rocket-0.jpg", halves[0] / "new.jpg")
    with pytest.raises(ImageNotFound, match=r"1 images there are not stored.*new\.jpg"):
        leaks(collection, halves)
    for wrong in ((halves[1], halves[0]), (tmp_path / "nowhere", halves[1])):
        with pytest.raises(ImageNotFound):
            leaks(collection, wrong)
    (tmp_path / "empty").mkdir()
    (halves[0] / "new.jpg").unlink()
    with pytest.raises(ImageNotFound, match="no images"):
        leaks(collection, (halves[0], tmp_path / "empty"))


def test_what_cannot_be_read_is_told(collection, halves):
    content = (halves[1] / "rocket-0.jpg").read_bytes()
    (halves[1] / "cut.jpg").write_bytes(content[:900])
    report = collection.curation.leaks(*halves, NEAR)
    assert [Path(path).name for path in report.refused] == ["cut.jpg"]
    assert len(report.leaks) == 2
