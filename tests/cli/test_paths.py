"""Which files the commands are about: lists of them, and patterns that leave some out."""

import json
import os

import pytest

SHORT = ("--recipe", "plain", "--image-size", "32", "--epochs", "1")


def lines(data: bytes) -> list[str]:
    return data.decode().splitlines()


@pytest.fixture
def library(pictures):
    """The photographs, thumbnails of a NAS beside them, and a second name of one."""
    (pictures / "@eaDir").mkdir()
    (pictures / "astronaut-0.jpg").rename(pictures / "@eaDir" / "thumb.jpg")
    os.link(pictures / "rocket-1.jpg", pictures / "rocket-6.jpg")
    return pictures


def test_ingest_says_what_it_leaves_out(empty, library, imgsim):
    everything = imgsim("-c", empty, "ingest", library, "--exclude", "!@eaDir")
    assert lines(everything.stderr) == [
        "37 files: 37 added, 0 changed, 0 moved, 0 unchanged, 0 refused, 0 unreachable, "
        "0 not images",
        "stored images that are one file with another, by hard links: 1",
    ]
    patterns = ("--exclude", "chelsea*", "--exclude", "/rocket-6.jpg")
    done = imgsim("-c", empty, "ingest", library, *patterns)
    assert lines(done.stderr) == [
        "29 files: 0 added, 0 changed, 0 moved, 29 unchanged, 0 refused, 0 unreachable, "
        "0 not images, 8 folders and files left out (@eaDir/, chelsea*, /rocket-6.jpg)",
        "stored images that were not found at these paths: 8; `imgsim prune` forgets those that "
        "are gone, `imgsim remove` those that are left out",
    ]
    report = json.loads(imgsim("-c", empty, "ingest", library, *patterns, "--json").stdout)
    assert report["excluded"] == {"@eaDir/": 1, "chelsea*": 6, "/rocket-6.jpg": 1}
    assert (report["seen"], report["hard_linked"]) == (29, 0)
    assert json.loads(imgsim("-c", empty, "info", "--json").stdout)["images"] == 37


def test_a_folder_that_asks_leaves_out_the_same(empty, library, imgsim):
    imgsim("-c", empty, "ingest", library)
    done = imgsim("-c", empty, "query", library, "-k1", "--json")
    assert len(lines(done.stdout)) == 36


@pytest.mark.parametrize("command", ["ingest", "train", "evaluate"])
@pytest.mark.parametrize("pattern", ["", "#recycle", "!"])
def test_what_is_no_pattern_is_a_mistake(empty, pictures, imgsim, command, pattern):
    done = imgsim("-c", empty, command, pictures, "--exclude", pattern)
    assert done.returncode == 2
    assert "pattern" in lines(done.stderr)[-1]
    if pattern == "#recycle":
        assert "write \\# for a name that begins with #" in lines(done.stderr)[-1]


def test_train_takes_lists_and_patterns(library, imgsim):
    listed = b"\xef\xbb\xbf" + os.fsencode(library) + b"\r\n"
    patterns = ("--exclude", "rocket*", "--exclude", "motor*")
    done = imgsim("train", "--from-file", "-", *patterns, *SHORT, input=listed)
    assert done.returncode == 0, done.stderr
    assert "14 folders and files left out (@eaDir/, motor*, rocket*)" in lines(done.stderr)
    assert any(line.startswith("trained on 23 images") for line in lines(done.stderr))
    assert any(line.startswith("few pictures lie near others") for line in lines(done.stderr))


def test_nothing_named_to_train_on(imgsim, tmp_path):
    assert imgsim("train").returncode == 2
    assert imgsim("train", "--from-file", tmp_path / "nowhere").returncode == 2
    done = imgsim("train", "--from-file", "-", "--null", input=b"")
    assert (done.returncode, lines(done.stderr)) == (
        30,
        ["imgsim: error: training needs at least 2 images that can be decoded, found 0"],
    )


def test_evaluate_takes_lists(empty, crops, imgsim, tmp_path):
    for number, path in enumerate(crops[:12]):
        folder = tmp_path / "labelled" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        os.link(path, folder / f"{number}.jpg")
    some = [tmp_path / "labelled" / str(n % 2) / f"{n}.jpg" for n in range(8)]
    listed = b"\0".join(map(os.fsencode, some))
    ask = ("-c", empty, "evaluate", tmp_path / "labelled", "--json")
    done = imgsim(*ask, "--from-file", "-", "-0", input=listed)
    assert json.loads(done.stdout)["images"] == 8
    done = imgsim(*ask, "--exclude", "[0-3].jpg")
    assert json.loads(done.stdout)["excluded"] == {"[0-3].jpg": 4}
    assert lines(done.stderr) == ["4 folders and files left out ([0-3].jpg)"]
