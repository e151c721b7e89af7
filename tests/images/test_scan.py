"""What a search leaves out, and counts. How it finds the rest is in test_decode.py."""

import os

import pytest

from imgsim.images.scan import Notes, find


@pytest.fixture
def tree(tmp_path):
    """A folder of files, among them what is left out."""
    for name in (
        "a.jpg",
        "b.tif",
        "@eaDir/a.jpg/thumb.jpg",
        "trip/c.jpg",
        "trip/@eaDir/c.jpg/thumb.jpg",
        "trip/raw/d.tif",
        "old/catalog.db",
        "old/segments/1.faiss",
        "old/encoders/history.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(tree, exclude=(), roots=("",)):
    """Return the paths relative to the tree, and what was counted."""
    notes = Notes()
    files = find([f"{tree}/{root}" for root in roots], exclude, notes=notes)
    return [os.path.relpath(file.path, tree) for file in files], dict(notes.excluded)


def test_thumbnails_and_other_collections_are_left_out(tree):
    assert found(tree) == (
        ["a.jpg", "b.tif", "trip/c.jpg", "trip/raw/d.tif"],
        {"@eaDir/": 2, "other collections": 1},
    )


def test_a_folder_that_is_a_root_is_never_left_out(tree):
    assert found(tree, ["@eaDir", "old"], ["@eaDir", "old"]) == (
        [
            "@eaDir/a.jpg/thumb.jpg",
            "old/catalog.db",
            "old/encoders/history.png",
            "old/segments/1.faiss",
        ],
        {},
    )


def test_files_that_are_roots_are_left_out_by_patterns_of_the_user(tree, monkeypatch):
    """Their paths are relative to the working folder, or to the top where they are not in it."""
    roots = ["a.jpg", "b.tif", "trip/c.jpg", "trip/@eaDir/c.jpg/thumb.jpg", "trip/raw/d.tif"]
    assert found(tree, (), roots) == (roots, {})
    assert found(tree, ["*.tif", "!d.tif", "@eaDir/"], roots) == (
        ["a.jpg", "trip/c.jpg", "trip/raw/d.tif"],
        {"*.tif": 1, "@eaDir/": 1},
    )
    assert found(tree, "/trip", roots)[1] == {}
    monkeypatch.chdir(tree)
    assert found(tree, "/trip", roots) == (["a.jpg", "b.tif"], {"/trip": 3})


def test_a_pattern_takes_in_what_the_defaults_leave_out(tree):
    paths, counts = found(tree, "!@eaDir")
    assert "trip/@eaDir/c.jpg/thumb.jpg" in paths
    assert counts == {"other collections": 1}


@pytest.mark.parametrize(
    ("patterns", "roots", "left"),
    [
        (["*.tif"], [""], ["a.jpg", "trip/c.jpg"]),
        (["*.tif", "!d.tif"], [""], ["a.jpg", "trip/c.jpg", "trip/raw/d.tif"]),
        (["/trip/raw"], [""], ["a.jpg", "b.tif", "trip/c.jpg"]),
        (["/raw"], ["trip"], ["trip/c.jpg"]),  # relative to each root
        (["trip/"], ["", "trip/raw"], ["a.jpg", "b.tif", "trip/raw/d.tif"]),
    ],
)
def test_patterns_of_the_user(tree, patterns, roots, left):
    assert found(tree, patterns, roots)[0] == left


def test_what_a_link_is_called_counts(tree):
    (tree / "trip" / "album").symlink_to(tree / "old" / "encoders")
    (tree / "trip" / "thumbs.tif").symlink_to(tree / "old" / "encoders" / "history.png")
    assert "trip/album/history.png" in found(tree)[0]
    paths, counts = found(tree, ["trip/album", "*.tif"])
    assert paths == ["a.jpg", "trip/c.jpg"]
    assert (counts["trip/album"], counts["*.tif"]) == (1, 3)


def test_names_that_are_not_utf8(tree):
    os.mkdir(os.path.join(os.fsencode(tree), b"tr\xff"))
    with open(os.path.join(os.fsencode(tree), b"tr\xff", b"x.jpg"), "wb"):
        pass
    assert "tr\udcff/x.jpg" in found(tree)[0]
    assert "tr\udcff/x.jpg" not in found(tree, os.fsdecode(b"tr\xff"))[0]


def test_files_with_several_names_are_noted(tree):
    os.link(tree / "a.jpg", tree / "trip" / "same.jpg")
    notes = Notes()
    list(find([str(tree)], notes=notes))
    facts = os.stat(tree / "a.jpg")
    assert notes.inodes == dict.fromkeys(
        [f"{tree}/a.jpg", f"{tree}/trip/same.jpg"], (facts.st_dev, facts.st_ino)
    )


@pytest.mark.parametrize(
    "only", ["trip/c.jpg", "trip", "trip/raw", "", "a.jpg", "old/x.jpg", "gone"]
)
def test_a_search_for_a_few_paths_finds_what_the_whole_one_does(tree, only):
    (tree / "link").symlink_to("trip")
    (tree / "old" / "x.jpg").touch()
    for roots in ([tree], [tree, tree / "trip"], [tree / "trip" / "raw", tree], [tree / "trip"]):
        place = os.path.normpath(tree / only)
        everything = [file.path for file in find(map(str, roots))]
        expected = [path for path in everything if f"{path}/".startswith(f"{place}/")]
        assert [file.path for file in find(map(str, roots), only=[place])] == expected
