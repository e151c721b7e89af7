import os
from pathlib import Path

import pytest

from imgsim import OutputError, StoreError
from imgsim.output.chosen import gather, write_paths


@pytest.fixture
def nasty(tmp_path):
    """Files whose names are the same, long, not UTF-8, and of two lines."""
    folder = tmp_path / "from"
    for name in (
        b"a/x.jpg",
        b"b/x.jpg",
        b"two\nlines.jpg",
        b"\xff\xfe.jpg",
        b"l" * 250 + b".jpg",
        "é".encode() * 125 + b".JPG",
    ):
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
        os.utime(path, ns=(1, 10**18 + 7))
    return sorted(
        os.fsdecode(p) for p in map(os.fsencode, folder.rglob("*.*")) if b"g" in p[-4:].lower()
    )


@pytest.mark.parametrize("how", ["copy", "link"])
def test_files_come_under_names_of_their_own(nasty, tmp_path, how):
    assert len(nasty) == 6
    target = tmp_path / "to"
    assert gather(nasty, target, how) == []
    there = sorted(target.iterdir())
    assert [path.name.partition("-")[0] for path in there] == list("123456")
    for path, source in zip(there, nasty, strict=True):
        assert path.is_symlink() == (how == "link")
        assert path.read_bytes() == Path(source).read_bytes()
        assert path.stat().st_mtime_ns == 10**18 + 7
        assert path.suffix == os.path.splitext(source)[1]
        if how == "link":
            assert os.readlink(path) == source


def test_a_folder_with_something_in_it_is_left_alone(nasty, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "1-x.jpg").write_text("mine")
    for folder in (tmp_path / "to", tmp_path / "to" / "1-x.jpg", tmp_path / "gone" / "to"):
        with pytest.raises(OutputError):
            gather(nasty, folder, "copy")
    assert (tmp_path / "to" / "1-x.jpg").read_text() == "mine"
    assert os.listdir(tmp_path / "to") == ["1-x.jpg"]


@pytest.mark.parametrize("how", ["copy", "link"])
def test_what_is_gone_is_reported_and_the_others_come(nasty, tmp_path, how):
    os.unlink(nasty[0])
    (refusal,) = gather(nasty, tmp_path / "to", how)
    assert refusal.path == nasty[0]
    assert len(os.listdir(tmp_path / "to")) == 5


def test_a_name_that_somebody_takes_meanwhile_stays_theirs(nasty, tmp_path):
    def take(done, total):
        if done == 1:
            (tmp_path / "to" / "2-x.jpg").write_text("theirs")

    with pytest.raises(StoreError, match="File exists"):
        gather([nasty[0], nasty[1]], tmp_path / "to", "copy", take)
    assert (tmp_path / "to" / "2-x.jpg").read_text() == "theirs"
    assert len(os.listdir(tmp_path / "to")) == 2


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_paths_are_exact(nasty, tmp_path, end):
    write_paths(tmp_path / "list", nasty, end)
    parts = (tmp_path / "list").read_bytes().split(os.fsencode(end))
    assert end == "\n" or parts == [*map(os.fsencode, nasty), b""]
    write_paths(tmp_path / "list", [])
    assert (tmp_path / "list").read_bytes() == b""
