"""Files that are moved away or linked, and back: nothing is lost, nothing else is touched."""

import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from imgsim import (
    Collection,
    CollectionError,
    ImageNotFound,
    ManifestError,
    OutputError,
    StoreError,
)
from imgsim.cli.acting import act
from imgsim.cli.options import Options
from imgsim.curation import placing
from imgsim.curation.manifest import read
from tests.conftest import file_limit
from tests.faults import KILLED, Faults

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "moves.py"
SHARED_MEMORY = Path("/dev/shm")
ODD = os.fsdecode(b"odd \xff\n<script>.jpg")


@pytest.fixture
def pairs(collection, pictures, crops) -> list[tuple[str, str]]:
    """Four exact copies in another folder, and the pictures that are kept instead; all stored."""
    found = []
    for number, path in enumerate(crops[:4]):
        copy = pictures / "copies" / str(number % 2) / (ODD if number < 2 else f"{number}.jpg")
        copy.parent.mkdir(parents=True, exist_ok=True)
        kept = pictures / os.path.basename(path)
        shutil.copy2(kept, copy)
        os.utime(copy, ns=(0, 1_400_000_000_123_456_789 + number))
        copy.chmod(0o640)
        kept.chmod(0o640)
        found.append((str(copy), str(kept)))
    collection.ingest([pictures])
    return found


@pytest.fixture(params=["same drive", "other drive"])
def away(request, tmp_path):
    """A folder to move to, which is not there yet."""
    if request.param == "same drive":
        yield tmp_path / "away"
        return
    if not SHARED_MEMORY.exists() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second drive")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        yield Path(folder) / "away"


def tree(*folders) -> dict[str, tuple[object, ...]]:
    """Return content, permissions and time of all files but manifests, by path."""
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {
        str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in paths
        if not path.name.endswith(".imgsim.jsonl")
    }


def stored(collection) -> set[str]:
    return {image.path for image in collection.images()}


class TestMove:
    def test_there_and_back(self, collection, pictures, pairs, away):
        if hasattr(os, "setxattr"):
            os.setxattr(pairs[0][0], "user.from", b"a friend")
        before, known = tree(pictures), stored(collection)
        planned = collection.curation.move(pairs, away, dry_run=True)
        assert (planned.manifest, tree(pictures), away.exists()) == ("", before, False)
        report = collection.curation.move(pairs, away)
        assert (report.changed, report.left) == (planned.changed, ())
        assert sorted(tree(away)) == sorted(
            f"{away}/copies/{place}" for place in (f"0/{ODD}", f"1/{ODD}", "0/2.jpg", "1/3.jpg")
        )
        for change, (path, kept) in zip(report.changed, pairs, strict=True):
            assert (change.path, change.kept, change.bytes) == (path, kept, len(before[path][0]))
            assert tree(away)[change.target] == before[path]
            assert not os.path.lexists(path)
        if hasattr(os, "getxattr"):
            assert os.getxattr(report.changed[0].target, "user.from") == b"a friend"
        assert stored(collection) == known - {path for path, _ in pairs}
        assert collection.ingest([pictures]).not_found == 0
        undone = collection.curation.restore(report.manifest, dry_run=True)
        assert undone.restored == tuple(path for path, _ in reversed(pairs))
        undone = collection.curation.restore(report.manifest)
        assert (len(undone.restored), undone.left, undone.known) == (4, (), 4)
        assert tree(pictures) == before
        assert os.listdir(away) == [os.path.basename(report.manifest)]
        assert stored(collection) == known
        assert collection.check() == []
        again = collection.curation.restore(report.manifest)
        assert (again.restored, again.left) == ((), ())

    def test_images_are_named_by_ids_too(self, collection, pairs, tmp_path):
        ids = {image.path: image.id for image in collection.images()}
        numbers = [(ids[path], kept) for path, kept in pairs] * 2
        assert len(collection.curation.move(numbers, tmp_path / "away").changed) == 4
        with pytest.raises(ValueError, match="no stored image has the id"):
            collection.curation.move(numbers, tmp_path / "away")
        with pytest.raises(ImageNotFound, match="is not stored"):
            collection.curation.move(pairs, tmp_path / "away")

    def test_nothing_to_do_leaves_nothing_behind(self, collection, tmp_path):
        report = collection.curation.move([], tmp_path / "away")
        assert (report.changed, report.left, report.manifest) == ((), (), "")
        assert not (tmp_path / "away").exists()

    def test_names_that_are_taken(self, collection, pictures, pairs, tmp_path):
        """By what was moved before, and by what somebody put there."""
        path, kept = pairs[2]
        away = tmp_path / "away"
        (away / "copies" / "0").mkdir(parents=True)
        (away / "copies" / "0" / "2.jpg").write_text("somebody's")
        for expected in ("2-2.jpg", "2-3.jpg"):
            (change,) = collection.curation.move([(path, kept)], away).changed
            assert os.path.basename(change.target) == expected
            shutil.copy(kept, path)
            collection.ingest([pictures])
        assert (away / "copies" / "0" / "2.jpg").read_text() == "somebody's"

    def test_several_folders_and_single_files(self, collection, pictures, tmp_path, crops):
        """What all that was ingested has in common is left out."""
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(crops[0], other)
        name = os.path.basename(crops[0])
        collection.ingest([pictures, other / name])
        pair = other / name, pictures / name
        (change,) = collection.curation.move([pair], tmp_path / "away", dry_run=True).changed
        assert change.target == f"{tmp_path}/away/other/{name}"

    def test_a_copy_that_another_pair_keeps_stays(self, collection, pairs, tmp_path):
        (a, b), (c, _) = pairs[:2]
        report = collection.curation.move([(a, b), (c, a), (b, c)], tmp_path / "away")
        assert report.changed == ()
        assert {(each.path, each.reason) for each in report.left} == {
            (path, "is kept instead of another") for path in (a, b, c)
        }

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ("touch", "was changed since its ingest"),
            ("alter unseen", "was changed since its ingest, though not its size and time"),
            ("remove", "No such file or directory"),
            ("link", "is a link"),
            ("folder", "is not a regular file"),
            ("same file", "is the same file as"),
            ("same file by a link", "is the same file as"),
            ("remove kept", "which is kept instead: No such file or directory"),
            ("alter kept", "which is kept instead, was changed since its ingest"),
            ("alter kept unseen", "which is kept instead, was changed since its ingest"),
        ],
    )
    @pytest.mark.parametrize("how", ["move", "hardlink"])
    def test_a_file_that_changed_is_left_alone(
        self, collection, pictures, pairs, tmp_path, change, reason, how
    ):
        path, kept = map(Path, pairs[2])
        which, facts = kept if "kept" in change else path, path.stat()
        match change.replace(" kept", ""):
            case "touch":
                path.touch()
            case "alter":
                which.write_bytes(which.read_bytes() + b" ")
            case "alter unseen":
                facts = which.stat()
                which.write_bytes(which.read_bytes()[:-1] + b" ")
                os.utime(which, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            case "remove":
                which.unlink()
            case "link":
                path.unlink()
                path.symlink_to(kept)
            case "folder":
                path.unlink()
                path.mkdir()
            case "same file":
                kept.unlink()
                os.link(path, kept)
            case "same file by a link":
                kept.unlink()
                kept.symlink_to(path)
        before = tree(pictures)
        if how == "move":
            report = collection.curation.move(pairs[2:3], tmp_path / "away")
        else:
            report = collection.curation.hardlink(pairs[2:3])
        assert report.changed == ()
        assert report.left[0].path == str(path)
        assert reason in report.left[0].reason
        assert tree(pictures) == before
        assert str(path) in stored(collection)

    def test_one_that_is_left_alone_does_not_stop_the_others(self, collection, pairs, away):
        Path(pairs[1][0]).touch()
        report = collection.curation.move(pairs, away)
        assert (len(report.changed), len(report.left)) == (3, 1)
        assert pairs[1][0] in stored(collection)

    def test_folders_that_cannot_be_used(self, collection, pictures, pairs, tmp_path):
        before = tree(pictures)
        (tmp_path / "file").touch()
        collections = tmp_path / "copy.imgsim"
        shutil.copytree(collection.path, collections)
        for folder, reason in (
            (tmp_path / "file", "is not a folder"),
            (tmp_path / "no" / "such", "the folder that it should be in is not there"),
            (collection.path / "away", "lies in the collection"),
            (collections / "segments", "lies in the collection"),
            (pictures, "40 images in it are stored"),
            (pictures / "copies", "4 images in it are stored"),
        ):
            for dry_run in (True, False):
                with pytest.raises(OutputError, match=reason):
                    collection.curation.move(pairs, folder, dry_run=dry_run)
        assert tree(pictures) == before

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_folders_that_cannot_be_written_to(self, empty, pictures, crops, tmp_path):
        copy = pictures / "copies" / "copy.jpg"
        copy.parent.mkdir()
        kept = shutil.copy2(crops[0], pictures)
        shutil.copy2(crops[0], copy)
        others = tmp_path / "others"
        others.mkdir()
        for path in (tmp_path, *tmp_path.parents[:3], *empty.rglob("*"), empty):
            os.chmod(path, 0o777)
        with Collection.open(empty) as collection:
            collection.ingest([pictures])
            for path in (*empty.rglob("*"), empty):
                os.chmod(path, 0o777)
            before = tree(pictures)
            try:
                os.seteuid(65534)
                with pytest.raises(OutputError, match="others: cannot be written to"):
                    collection.curation.move([(copy, kept)], others)
                for report in (
                    collection.curation.move([(copy, kept)], tmp_path / "away", dry_run=True),
                    collection.curation.move([(copy, kept)], tmp_path / "away"),
                    collection.curation.hardlink([(copy, kept)]),
                ):
                    assert report.left[0].reason == "its folder cannot be written to"
            finally:
                os.seteuid(0)
        assert tree(pictures) == before

    def test_a_system_that_cannot_rename_without_replacing(
        self, collection, pictures, pairs, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(placing, "_RENAME", None)  # as on macOS
        before = tree(pictures)
        report = collection.curation.move(pairs, tmp_path / "away")
        assert len(report.changed) == 4
        with pytest.raises(FileExistsError):
            placing.rename_new(pairs[0][1], report.changed[0].target)
        assert len(collection.curation.restore(report.manifest).restored) == 4
        assert tree(pictures) == before

    def test_a_drive_that_is_full(self, collection, pictures, pairs, away):
        """Where a file cannot be copied it is left alone; without a manifest nothing goes on."""
        before = tree(pictures)
        with file_limit(2_000):
            if away.is_relative_to(SHARED_MEMORY):
                report = collection.curation.move(pairs[:1], away)
                assert report.left[0].reason == "File too large"
                assert (tree(away), tree(pictures)) == ({}, before)
            with pytest.raises((CollectionError, StoreError), match=r"File too large|disk full"):
                collection.curation.move(pairs, away)
        moved = tree(away)
        assert len(moved) + len(tree(pictures)) == 40
        for path in away.glob("*.jsonl"):
            assert collection.curation.restore(path).left == ()
        assert tree(pictures) == before
        assert len(stored(collection)) == 40

    def test_a_folder_below_an_ingested_one_is_left_out_from_then_on(
        self, collection, pictures, pairs
    ):
        collection.curation.move(pairs, pictures / "away")
        report = collection.ingest([pictures])
        assert (report.seen, report.excluded) == (36, {"duplicates that were moved away": 1})
        assert collection.ingest([pictures / "away"]).added == 4


class TestRestore:
    def test_what_is_in_the_way_stays(self, collection, pairs, away):
        report = collection.curation.move(pairs, away)
        first, second, third, fourth = (path for path, _ in pairs)
        targets = {change.path: change.target for change in report.changed}
        Path(first).write_text("in the way")
        Path(targets[second]).write_text("changed")
        os.unlink(targets[third])
        shutil.copy2(targets[fourth], fourth)
        undone = collection.curation.restore(report.manifest)
        assert undone.restored == ()
        assert {each.path: each.reason for each in undone.left} == {
            first: f"there is another file; this one is at {targets[first]}",
            second: f"was changed at {targets[second]} since",
            third: f"is not at {targets[third]} any more",
            fourth: f"there is another file; this one is at {targets[fourth]}",
        }
        assert Path(first).read_text() == "in the way"
        os.unlink(first)
        os.unlink(targets[fourth])  # it is back, by hand
        undone = collection.curation.restore(report.manifest)
        assert (undone.restored, len(undone.left), undone.known) == ((first,), 2, 2)

    def test_a_folder_that_was_renamed(self, collection, pictures, pairs, tmp_path):
        before = tree(pictures)
        report = collection.curation.move(pairs, tmp_path / "away")
        (tmp_path / "away").rename(tmp_path / "elsewhere")
        shutil.rmtree(pictures / "copies")
        manifest = tmp_path / "elsewhere" / os.path.basename(report.manifest)
        assert len(collection.curation.restore(manifest).restored) == 4
        assert tree(pictures) == before

    def test_a_drive_that_is_not_plugged_in(self, collection, pictures, pairs, tmp_path):
        """Nothing is put onto the drive that its mount point is on."""
        report = collection.curation.move(pairs, tmp_path / "away")
        pictures.rename(tmp_path / "unplugged")
        undone = collection.curation.restore(report.manifest)
        assert len(undone.left) == 4
        assert f"{pictures} is missing or empty; if its drive is" in undone.left[0].reason
        assert not pictures.exists()

    def test_another_collection_is_told(self, collection, pairs, tmp_path):
        report = collection.curation.move(pairs, tmp_path / "away")
        with Collection.open(shutil.copytree(collection.path, tmp_path / "c")) as other:
            undone = other.curation.restore(report.manifest)
            assert (len(undone.restored), undone.known) == (4, 0)
            assert str(collection.path) in undone.warnings[0]
            assert len(stored(other)) == 36

    def test_what_is_no_manifest(self, collection, pairs, tmp_path):
        report = collection.curation.move(pairs, tmp_path / "away")
        good = Path(report.manifest).read_bytes()
        bad = tmp_path / "bad.jsonl"
        for content, reason in (
            (b"", "an empty one"),
            (b"text\n", "no manifest"),
            (b"[]\n", "no manifest"),
            (b"{}\n", "no manifest"),
            (good.replace(b'"format": 1', b'"format": 2'), "a newer imgsim"),
            (good.replace(b'"moved"', b'"flown"'), "damaged"),
            (good.replace(b'"sha256"', b'"sha255"'), "damaged"),
            (good.replace(b'"target": "', b'"target": "../'), "damaged"),
            (good.replace(b'"path": "/', b'"path": "'), "damaged"),
            (good.replace(b'"token": "', b'"token": "/../../'), "damaged"),
        ):
            bad.write_bytes(content)
            for dry_run in (True, False):
                with pytest.raises(ManifestError, match=reason):
                    collection.curation.restore(bad, dry_run=dry_run)
        with pytest.raises(ManifestError, match="No such file"):
            collection.curation.restore(tmp_path / "none")

    def test_a_manifest_that_somebody_else_writes(self, collection, pairs, tmp_path):
        report = collection.curation.move(pairs, tmp_path / "away")
        with open(report.manifest, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(ManifestError, match="another process is at work"):
                collection.curation.restore(report.manifest)

    def test_a_line_that_was_cut_short(self, collection, pairs, tmp_path):
        report = collection.curation.move(pairs, tmp_path / "away")
        with open(report.manifest, "ab") as file:
            file.write(b'{"number": 5, "path": "/')
        assert len(collection.curation.restore(report.manifest).restored) == 4
        assert b'"path": "/{' not in Path(report.manifest).read_bytes()


class TestHardlink:
    def test_there_and_back(self, collection, pictures, pairs):
        before, known = tree(pictures), stored(collection)
        (planned, done) = (
            collection.curation.hardlink(pairs, dry_run=dry) for dry in (True, False)
        )
        assert (planned.changed, planned.manifest) == (done.changed, "")
        assert len(done.changed) == 4
        for path, kept in pairs:
            assert os.path.samefile(path, kept)
        report = collection.ingest([pictures])
        assert (report.unchanged, report.hard_linked) == (40, 4)
        undone = collection.curation.restore(done.manifest)
        assert (len(undone.restored), undone.left) == (4, ())
        assert tree(pictures) == before
        assert [os.stat(path).st_nlink for pair in pairs for path in pair] == [1] * 8
        assert collection.ingest([pictures]).unchanged == 40
        assert stored(collection) == known
        assert collection.curation.restore(done.manifest).restored == ()

    def test_only_what_one_file_can_stand_for(self, collection, pictures, pairs, crops):
        near, mode, attribute, whole = pairs
        Path(mode[0]).chmod(0o600)
        if hasattr(os, "setxattr"):
            os.setxattr(attribute[0], "user.from", b"a friend")
        else:
            Path(attribute[0]).chmod(0o600)
        report = collection.curation.hardlink([(near[0], mode[1]), mode, attribute, whole])
        assert [change.path for change in report.changed] == [whole[0]]
        reasons = {each.path: each.reason for each in report.left}
        assert "is no exact copy of" in reasons[near[0]]
        assert "permissions or extended attributes are not those of" in reasons[mode[0]]
        assert "permissions or extended attributes are not those of" in reasons[attribute[0]]

    def test_what_happened_to_the_links_since(self, collection, pairs):
        done = collection.curation.hardlink(pairs)
        (edited, _), (removed, _), (last, kept), (replaced, _) = pairs
        with open(edited, "ab") as file:
            file.write(b"both")
        os.unlink(removed)
        content = Path(kept).read_bytes()
        os.unlink(kept)
        Path(replaced).unlink()
        Path(replaced).write_text("another")
        undone = collection.curation.restore(done.manifest)
        assert undone.restored == (removed,)  # the one kept has its content
        assert {each.reason for each in undone.left} == {"was changed since"}
        assert Path(last).read_bytes() == content
        assert Path(replaced).read_text() == "another"


class Killed:
    """Moves or links some pairs, or undoes that, in children that are killed."""

    def __init__(self, collection, pairs, away, how) -> None:
        self.path, self.pairs, self.away = collection.path, pairs, away
        self.links, self.undoes = "link" in how, how.startswith("restore")

    def manifests(self) -> list[Path]:
        found = [*self.away.glob("*.jsonl"), *(self.path / "manifests").glob("*")]
        return [path for path in found if path.stat().st_size]

    def act(self) -> None:
        with Collection.open(self.path) as collection:
            if self.links:
                collection.curation.hardlink(self.pairs)
            else:
                collection.curation.move(self.pairs, self.away)

    def undo(self) -> None:
        with Collection.open(self.path) as collection:
            for path in self.manifests():
                assert collection.curation.restore(path).left == ()

    def kill(self, number) -> int:
        """Let a child be killed before an effect on the disk; return how it ended."""
        child = os.fork()
        if not child:
            try:
                Faults("kill", number).arm()
                (self.undo if self.undoes else self.act)()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def look(self, before) -> None:
        """Compare where the files are with what the manifests say."""
        entries = {e.path: e for path in self.manifests() for e in read(path)[1].values()}
        for path, kept in self.pairs:
            state = entries[path].state if path in entries else "left"
            target = entries[path].target if path in entries else path
            places = {each for each in (path, target) if os.path.exists(each)}
            allowed = {"left": {path}, "restored": {path}, "moved": {target}, "linked": {path}}
            assert places
            assert places == allowed.get(state, places)
            assert all(Path(each).read_bytes() == before[path][0] for each in places)
            if state in allowed and path in places:
                assert os.path.samefile(path, kept) == (state == "linked")


@pytest.mark.parametrize("how", ["move", "restore", "hardlink", "restore of links"])
def test_a_kill_before_each_effect_on_the_disk(
    tmp_path, collection, pictures, pairs, away, how, monkeypatch
):
    """What it has left is the old state or the new one of each file, and is undone in whole."""
    if "link" in how and away.is_relative_to(SHARED_MEMORY):
        pytest.skip("links are on one drive")
    monkeypatch.setenv("EFFECT", str(tmp_path / "effect"))
    before, known, trial = (
        tree(pictures),
        stored(collection),
        Killed(collection, pairs[2:3], away, how),
    )
    for number in itertools.count(step=3 if trial.undoes else 1):  # some will do
        if trial.undoes:
            trial.act()
        ended = trial.kill(number)
        assert ended in {0, KILLED}
        trial.look(before)
        if number % 2 and not trial.undoes:
            collection.curation.move([], away)  # which ends what was begun
            collection.curation.hardlink([])
            assert not [path for path in tree(away, pictures) if "/.imgsim-" in path]
        trial.undo()
        assert tree(pictures, away) == before
        assert stored(collection) == known
        for path in trial.manifests():
            path.unlink()
        if ended == 0:
            break
    assert number > 10


def test_kills_at_random_moments(tmp_path):
    """benchmarks/moves.py does the same a hundred times."""
    table = tmp_path / "table.json"
    some = "--kills", "1", "--each", "1", "--only", "move", "hardlink"
    command = [sys.executable, BENCHMARK, *some, "--json", table]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr
    assert {row["kills"] for row in json.loads(table.read_text())["trials"]} == {1}


class TestCommand:
    def test_restore(self, imgsim, collection, pictures, pairs, tmp_path, capsys):
        before = tree(pictures)
        options = Options(collection.path)
        away = tmp_path / "away"
        Path(pairs[3][0]).touch()
        act(collection.curation, pairs, away, options, yes=False)
        told = capsys.readouterr().err
        assert f"left alone: {pairs[3][0]}: was changed since its ingest" in told
        assert f"would be moved to {away}: 3 files, 0.0 MB; left alone: 1" in told
        assert "nothing was done; --yes does it" in told
        report = act(collection.curation, pairs, away, options, yes=True)
        assert f"`imgsim restore {report.manifest}` undoes it" in capsys.readouterr().err
        command = "-c", collection.path, "restore", report.manifest
        done = imgsim(*command, "--dry-run")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
        assert b"would be restored: 3 files" in done.stderr
        done = imgsim(*command)
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"restored: 3 files; ingested: 3" in done.stderr
        assert tree(pictures).keys() == before.keys()
        done = imgsim(*command, "--json")
        assert json.loads(done.stdout)["restored"] == []

    def test_links(self, collection, pairs, capsys):
        options = Options(collection.path)
        act(collection.curation, pairs[:1], None, options, yes=True)
        assert "replaced by hard links: 1 files" in capsys.readouterr().err

    def test_what_cannot_be_restored(self, imgsim, collection, pairs, tmp_path):
        report = collection.curation.move(pairs, tmp_path / "away")
        Path(pairs[2][0]).write_text("in the way")
        done = imgsim("-c", collection.path, "restore", report.manifest)
        assert done.returncode == 1
        assert b"restored: 3 files; ingested: 3; left alone: 1" in done.stderr
        done = imgsim("-c", collection.path, "restore", tmp_path / "none")
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"imgsim: error: {tmp_path}/none: cannot be read: No such file or directory".encode()
        ]
