import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from imgsim import Collection, ImageNotFound, IngestSettings, RadiusUnknown, SearchFilter
from imgsim.curation_options import DuplicateSettings
from tests.conftest import make_collection
from tests.pictures import write_crops

NEAR = DuplicateSettings(radius=1.0)


def names(report):
    """Kind and name of the members of each group."""
    return [
        [(each.kind, Path(each.path).name) for each in group.members] for group in report.groups
    ]


def resized(source, target, side, quality=90):
    with Image.open(source) as image:
        image.resize((side, side), Image.Resampling.LANCZOS).save(target, quality=quality)


@pytest.fixture
def library(pictures):
    """Photographs with a smaller copy of one, an exact one of another, and one file twice."""
    other = pictures.parent / "other"
    other.mkdir()
    resized(pictures / "astronaut-0.jpg", other / "small.jpg", 64)
    shutil.copy2(pictures / "coffee-1.jpg", other / "copy.jpg")
    os.link(pictures / "rocket-2.jpg", other / "linked.jpg")
    return pictures.parent


@pytest.fixture
def stored(collection, library):
    collection.ingest([library / "pictures", library / "other"])
    return collection


def duplicates(collection, **chosen):
    return collection.curation.duplicates(replace(NEAR, **chosen))


def test_copies_are_found_and_told_apart(stored):
    assert names(duplicates(stored)) == [
        [("kept", "copy.jpg"), ("exact", "coffee-1.jpg")],
        [("kept", "linked.jpg"), ("same file", "rocket-2.jpg")],
        [("kept", "astronaut-0.jpg"), ("near", "small.jpg")],
    ]


def test_what_is_known_of_a_member(stored, library):
    small = duplicates(stored).groups[2].members[1]
    facts = os.stat(library / "other" / "small.jpg")
    assert (small.width, small.height, small.bytes) == (64, 64, facts.st_size)
    assert small.format == "JPEG"
    assert abs(small.modified - facts.st_mtime) < 1e-3
    assert 0 < small.distance <= 1


def test_the_same_file_is_never_spare(stored):
    spare = [Path(each.path).name for group in duplicates(stored).groups for each in group.spare]
    assert spare == ["coffee-1.jpg", "small.jpg"]


def test_the_order_of_ingest_does_not_count(stored, library, tmp_path):
    paths = sorted(map(str, library.glob("*/*.jpg")), reverse=True)
    with Collection.open(make_collection(tmp_path / "again.imgsim")) as again:
        for path in paths:
            again.ingest([path])
        found = [[each.path for each in group.members] for group in duplicates(again).groups]
    assert found == [[each.path for each in group.members] for group in duplicates(stored).groups]


@pytest.mark.parametrize(
    ("keep", "first"),
    [
        ({"keep": "largest"}, "astronaut-0.jpg"),
        ({"keep": "oldest"}, "small.jpg"),
        ({"keep": "newest"}, "astronaut-0.jpg"),
        ({"keep": "shortest-path"}, "small.jpg"),
        ({"keep": "first-under", "first_under": ["other", "pictures"]}, "small.jpg"),
        ({"keep": "first-under", "first_under": ["pictures"]}, "astronaut-0.jpg"),
    ],
)
def test_which_is_kept(collection, library, keep, first):
    os.utime(library / "other" / "small.jpg", (1, 1))
    collection.ingest([library / "pictures", library / "other"])
    folders = [str(library / each) for each in keep.get("first_under", ())]
    keep |= {"first_under": folders}
    kept = {Path(group.kept.path).name for group in duplicates(collection, **keep).groups}
    assert first in kept


def test_within_a_folder_and_across(stored, library):
    shutil.copy2(library / "pictures" / "coffee-1.jpg", library / "pictures" / "coffee-9.jpg")
    stored.ingest([library / "pictures"])
    assert names(duplicates(stored, folders="within")) == [
        [("kept", "coffee-1.jpg"), ("exact", "coffee-9.jpg")]
    ]
    across = names(duplicates(stored, folders="across"))
    assert [("kept", "copy.jpg"), ("exact", "coffee-1.jpg"), ("exact", "coffee-9.jpg")] in across
    under_one = SearchFilter(under=str(library / "pictures"))
    assert names(duplicates(stored, folders="across", within=under_one)) == []


def test_only_images_that_the_filter_admits(stored, library):
    outside = SearchFilter(not_under=str(library / "other" / "copy.jpg"))
    assert len(duplicates(stored, within=outside).groups) == 2


def test_a_pair_that_was_judged_is_not_offered(stored, library):
    pair = library / "pictures" / "astronaut-0.jpg", library / "other" / "small.jpg"
    assert stored.curation.ignore(*pair)
    assert not stored.curation.ignore(*reversed(pair))
    assert len(duplicates(stored).groups) == 2
    (judged,) = stored.curation.ignored()
    assert {judged.first_paths, judged.second_paths} == {(str(path),) for path in pair}
    assert stored.curation.unignore(*pair)
    assert not stored.curation.unignore(*pair)
    assert len(duplicates(stored).groups) == 3


def test_what_cannot_be_judged(stored, library):
    exact = library / "pictures" / "coffee-1.jpg", library / "other" / "copy.jpg"
    with pytest.raises(ValueError, match="same content"):
        stored.curation.ignore(*exact)
    with pytest.raises(ImageNotFound):
        stored.curation.ignore(exact[0], library / "nowhere.jpg")


def test_mirrored_and_turned(collection, pictures):
    with Image.open(pictures / "chelsea-0.jpg") as image:
        ImageOps.mirror(image).save(pictures / "mirrored.png")
        image.transpose(Image.Transpose.ROTATE_90).save(pictures / "turned.png")
    collection.ingest([pictures])
    assert names(duplicates(collection)) == []
    calls = []
    settings = replace(NEAR, mirror=True)
    report = collection.curation.duplicates(settings, lambda *done: calls.append(done))
    assert names(report) == [[("kept", "mirrored.png"), ("posed", "chelsea-0.jpg")]]
    assert (38, 38) in calls
    both = duplicates(collection, mirror=True, rotate=True)
    assert names(both) == [
        [("kept", "mirrored.png"), ("posed", "chelsea-0.jpg"), ("posed", "turned.png")]
    ] or {name for _, name in names(both)[0]} == {"mirrored.png", "chelsea-0.jpg", "turned.png"}


def test_files_that_changed_are_left_alone(stored, library):
    (library / "other" / "small.jpg").unlink()
    resized(library / "pictures" / "coffee-1.jpg", library / "other" / "copy.jpg", 32)
    report = duplicates(stored)
    assert [Path(path).name for path in report.left_alone] == ["copy.jpg"]
    assert names(report) == [[("kept", "linked.jpg"), ("same file", "rocket-2.jpg")]]


def test_by_distance_alone_whatever_the_pixels_say(stored):
    everything = duplicates(stored, radius=1e6, by_distance=True)
    assert [len(group.members) for group in everything.groups] == [39]
    assert len(duplicates(stored, radius=1e6).groups) == 3


def test_a_name_with_anything_in_it(collection, pictures):
    strange = os.fsencode(pictures) + b"/new\nline <b>\xff.jpg"
    shutil.copy(pictures / "coffee-1.jpg", strange)
    collection.ingest([pictures])
    (group,) = duplicates(collection).groups
    assert os.fsencode(group.members[1].path) == strange


def test_an_empty_collection_and_a_single_image(collection, pictures):
    assert duplicates(collection).groups == ()
    collection.ingest([pictures / "coffee-1.jpg"])
    assert duplicates(collection).groups == ()


def test_settings_that_make_no_sense():
    for wrong in (
        {"radius": -1.0},
        {"false_alarms": 0.0},
        {"keep": "first-under"},
        {"first_under": ["a"]},
        {"keep": "best"},
        {"folders": "some"},
    ):
        with pytest.raises(ValueError, match=r"must|needed"):
            DuplicateSettings(**wrong)


class TestRadius:
    @pytest.fixture(scope="class")
    @staticmethod
    def many(tmp_path_factory):
        """A collection of 120 photographs, which tests may not change."""
        folder = tmp_path_factory.mktemp("many")
        write_crops(folder / "crops", each=20, side=64)
        with Collection.open(make_collection(folder / "many.imgsim")) as opened:
            opened.ingest(folder / "crops")
            yield opened

    def test_it_is_learnt_and_remembered(self, many):
        assert many.info().duplicates is None
        curves = many.curation.learn_radius()
        learnt = curves.learnt
        assert curves.remembered
        assert many.curation.radius() == learnt == many.info().duplicates
        assert (learnt.images, learnt.sampled) == (120, 120)
        assert set(curves.same) == {"saved again", "shrunk", "cropped", "recoloured", "grey"}
        assert 0.5 < learnt.recall <= 1
        assert many.curation.radius(0.5) is None

    def test_it_does_not_depend_on_the_order_of_ingest(self, many, tmp_path):
        paths = sorted((image.path for image in many.images()), reverse=True)
        with Collection.open(make_collection(tmp_path / "again.imgsim")) as again:
            again.ingest(paths)
            ours = again.curation.learn_radius().learnt
        theirs = many.curation.learn_radius().learnt
        assert replace(ours, learnt_at=0) == replace(theirs, learnt_at=0)

    def test_duplicates_use_it(self, many):
        report = many.curation.duplicates()
        assert report.radius == many.curation.radius().radius

    def test_few_pictures_cannot_tell(self, filled):
        with pytest.raises(RadiusUnknown, match="--radius"):
            filled.curation.duplicates()
        with pytest.raises(RadiusUnknown):
            filled.curation.learn_radius()

    def test_copies_do_not_make_pictures(self, collection, pictures):
        for number in range(3):
            shutil.copytree(pictures, pictures.parent / "copies" / str(number))
        collection.ingest([pictures.parent / "copies"], IngestSettings())
        with pytest.raises(RadiusUnknown, match="36 different"):
            collection.curation.learn_radius()
