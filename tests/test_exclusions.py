"""Patterns: what git makes of them, we do."""

import shutil
import subprocess
import sys

import pytest

from imgsim import IngestSettings, TrainingSettings, exclusions
from imgsim.exclusions import Exclusions

PATHS = (
    "a.jpg",
    "b.tif",
    "keep/a.jpg",
    "keep/deep/b.tif",
    "foo/a.jpg",
    "foo.jpg/b.jpg",
    "a/b/x.jpg",
    "a/b/c/y.jpg",
    "x/a/b/z.jpg",
    "@eaDir/t.jpg",
    "x/@eaDir/t.jpg",
    "#recycle/t.jpg",
    "sp ace/q.jpg",
)


def excluded(patterns):
    """Return the paths that a search leaves out, which does not enter a folder that it does."""
    found, rules = set(), Exclusions(patterns)
    for path in PATHS:
        parts = path.split("/")
        folders = ("/".join(parts[:count]) for count in range(1, len(parts)))
        if any(map(rules.of_folder, folders)) or rules.of_file(path):
            found.add(path)
    return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    for path in PATHS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.mark.parametrize(
    "patterns",
    [
        ["*.jpg"],
        ["*.jpg", "!a.jpg"],
        ["!a.jpg", "*.jpg"],
        ["*", "!*/", "!*.jpg"],
        ["*.jpg", "!keep/"],
        ["*.jpg", "!/keep/"],
        ["a"],
        ["a/"],
        ["/a"],
        ["a/b"],
        ["a/b/", "!a/b/c/"],
        ["a/**", "!a/b/"],
        ["a/**/c"],
        ["**/b"],
        ["x/**", "!x/**/"],
        ["b/", "!a/"],
        ["b/", "!/a/"],
        ["@eaDir", "!@eaDir"],
        ["@eaDir/", "!x/@eaDir"],
        ["foo.jpg/"],
        ["?oo*"],
        ["[ab].*"],
        ["sp ace "],
        ["\\#recycle", "\\@eaDir"],
        ["keep/a.jpg"],
        ["a/b/**", "!a/b/x.jpg"],
        ["a/**", "!a/b/", "a/b/*", "!a/b/x.jpg"],
        ["foo/**/"],
        ["a/**/"],
        ["**/a/**/"],
        ["**/b/**"],
        ["/**/*"],
        ["/**"],
        ["**/"],
        ["**/**/", "!/a/"],
        ["[[a]/b/x.jpg"],
    ],
)
def test_git_leaves_out_the_same(monkeypatch, repository, patterns):
    monkeypatch.setattr(exclusions, "DEFAULTS", ())
    (repository / ".gitignore").write_text("\n".join(patterns))
    asked = ["git", "-c", "core.quotePath=off", "check-ignore", "--no-index", "--stdin", "-z"]
    told = subprocess.run(
        asked, input="\0".join(PATHS), cwd=repository, capture_output=True, text=True, check=False
    )
    assert excluded(patterns) == set(filter(None, told.stdout.split("\0")))


def test_defaults_and_what_takes_them_in_again():
    assert excluded([]) == {"@eaDir/t.jpg", "x/@eaDir/t.jpg", "#recycle/t.jpg"}
    assert excluded("!@eaDir") == {"#recycle/t.jpg"}
    assert excluded(["!/@eaDir", "!\\#recycle"]) == {"x/@eaDir/t.jpg"}
    for folder in ("Previews.lrdata", "My.photoslibrary/resources/derivatives", "__MACOSX"):
        assert Exclusions().of_folder(f"deep/{folder}")
        assert not Exclusions().of_file(f"deep/{folder}")


@pytest.mark.parametrize("pattern", ["", " ", "#recycle", "/", "!", "a\\", "[", "[z-a]"])
def test_what_is_no_pattern_is_refused_with_the_settings(pattern):
    for settings in (IngestSettings, TrainingSettings):
        with pytest.raises(ValueError, match="pattern"):
            settings(exclude=[pattern])


@pytest.mark.parametrize("pattern", ["[[:upper:]]*", "!a/[b[:digit:]]"])
def test_classes_that_would_match_nothing_are_refused(pattern):
    with pytest.raises(ValueError, match=r"has a class as \[:upper:\]; write \[A-Z\]"):
        IngestSettings(exclude=pattern)


def test_what_is_left_out_of_named_files():
    """By default nothing, and of folders only what they are called from here on."""
    rules = Exclusions(["*.tif", "trash/", "/old", "!keep.tif"])
    named = ["a.tif", "keep.tif", "trash/a.jpg", "x/trash/y/keep.tif", "old/a.jpg", "x/old/a.jpg"]
    left_out = {path: rules.of_named(path) for path in [*named, "@eaDir/a.jpg"]}
    assert {path for path, pattern in left_out.items() if pattern is None} == {
        "keep.tif",
        "x/old/a.jpg",
        "@eaDir/a.jpg",
    }


def test_one_pattern_is_not_taken_for_its_letters():
    assert IngestSettings(exclude="@eaDir").exclude == ("@eaDir",)


@pytest.mark.parametrize("default", exclusions.DEFAULTS)
def test_defaults_are_the_patterns_that_they_look_like(default, monkeypatch):
    """They are read without the library, which takes a while to import."""
    monkeypatch.setattr(exclusions, "DEFAULTS", (default,))
    name = default.removeprefix("**/").rstrip("/").lstrip("\\").replace("*", "Photos.x")
    ours = Exclusions()
    assert ours.of_folder(f"x/{name}") == default
    monkeypatch.setattr(exclusions, "DEFAULTS", ())
    theirs = Exclusions(default)
    for folder in (name, f"x/{name}", f"x{name}", f"{name}x", f"{name}/x", name.upper(), "x"):
        assert ours.of_folder(folder) == theirs.of_folder(folder), folder
        assert ours.of_file(folder) is None


def test_the_library_is_not_imported_without_a_pattern():
    code = (
        "import sys, imgsim.exclusions as e; e.Exclusions(); assert 'pathspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
