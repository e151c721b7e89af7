"""Paths lead where the kernel goes, and links stay or are replaced as they should be."""

import os

import pytest

from imgsim.files import absolute, replacing


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with deep/er, and links to it and to nothing."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to("deep/er")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("./a//b/./c/", "a/b/c"),
        ("a/../b", "b"),
        ("link", "link"),
        ("link/a.jpg", "link/a.jpg"),
        ("link/../up.jpg", "deep/up.jpg"),
        ("link/../../up.jpg", "up.jpg"),
        ("link/gone/../up.jpg", "link/up.jpg"),
        ("dangling/../up.jpg", "nowhere/at/up.jpg"),
        ("..", ".."),
    ],
)
def test_absolute(tree, path, found):
    assert absolute(path) == os.path.normpath(tree / found)
    assert absolute(f"{tree}/{path}") == os.path.normpath(tree / found)


def test_the_ends_of_the_tree():
    assert absolute("/") == absolute("//") == absolute("/../..") == absolute("///.") == "/"
    assert absolute("//a") == absolute("/../a/") == "/a"
    with pytest.raises(ValueError, match="empty"):
        absolute("")


def test_an_absolute_path_needs_no_working_directory(tree):
    os.chdir("deep/er")
    os.rmdir("../er")
    assert absolute("/a/./b") == "/a/b"


def test_a_link_is_replaced_and_what_it_leads_to_stays(tree):
    (tree / "mine").write_text("mine")
    (tree / "place").symlink_to("mine")
    with replacing(tree / "place") as temporary:
        temporary.write_text("new")
    assert (tree / "place").read_text() == "new"
    assert (tree / "mine").read_text() == "mine"
