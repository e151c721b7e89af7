"""Ingests that go on, as generators here and as real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imgsim import Collection, ExtraMissing, IngestSettings
from imgsim.directory import Directory
from imgsim.images.notices import Notices, Pace
from imgsim.jobs.watch import watch
from imgsim.locks import writer_lock
from tests.conftest import interruptible, make_collection
from tests.server.test_server import client_of, got

SOON = Pace(still=0.1, remote=0.1, often=0.3)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


def watching(path, *roots, settings=None, pace=SOON):
    """Return the batches of a watch whose first ingest is done, and the report of that."""
    directory = Directory.open(path, create=False)
    reports = watch(directory, [*map(str, roots)], settings or IngestSettings(), None, pace)
    return reports, next(reports)


def stored(path) -> set[str]:
    with Collection.open(path) as collection:
        return {os.path.basename(image.path) for image in collection.images()}


def told(report) -> tuple[int, int, int, int, int]:
    counts = report.added, report.changed, report.moved
    return *counts, len(report.refused), len(report.unreachable)


class Watch:
    """The real command, which prints a line of JSON for each batch."""

    def __init__(self, path, *roots) -> None:
        command = [
            sys.executable,
            "-m",
            "imgsim",
            "-c",
            path,
            "ingest",
            "--watch",
            "--json",
            *roots,
        ]
        self.process = subprocess.Popen(
            [*map(os.fspath, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=interruptible,  # noqa: PLW1509 - it only resets a signal
        )
        self.first = self.report()

    def report(self):
        assert self.process.stdout is not None
        alarm = threading.Timer(60, self.process.kill)
        alarm.start()
        line = self.process.stdout.readline()
        alarm.cancel()
        return json.loads(line)

    def end(self, number=signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def test_the_command_stores_what_comes_until_it_is_interrupted(folder, crops):
    path = make_collection(folder / "photos.imgsim")  # what it writes there is no change
    shutil.copy(crops[0], folder)
    watch = Watch(path, folder)
    assert (watch.first["schema"], watch.first["added"]) == (1, 1)
    with client_of(path) as server:
        assert len(got(server.get("/api/v1/images"))["images"]) == 1
        for crop in crops[1:4]:
            shutil.copy(crop, folder)
        assert watch.report()["added"] == 3
        assert len(got(server.get("/api/v1/images"))["images"]) == 4  # without a restart
    with Collection.open(path) as other:  # between batches others may write
        assert other.ingest(crops[4]).added == 1
        assert other.remove(crops[4]).images == 1
    with writer_lock(path):
        (folder / "trip").mkdir()
        shutil.copy(crops[5], folder / "trip")
        time.sleep(3)
        assert Path(crops[5]).name not in stored(path)
    assert watch.report()["added"] == 1
    written = (path / "lock").stat().st_mtime_ns
    time.sleep(1.5)
    assert (path / "lock").stat().st_mtime_ns == written
    code, said = watch.end()
    assert (code, "Traceback" in said) == (0, False)
    assert said.count("new files wait") == 1
    assert "watching; Ctrl-C ends it" in said
    with Collection.open(path) as collection:
        assert collection.check() == []
        assert collection.ingest(folder).unchanged == 5


def test_a_kill_in_the_midst_loses_nothing(empty, folder, crops):
    watch = Watch(empty, folder)
    contents = [Path(crop).read_bytes() for crop in crops]
    for number in range(500):
        (folder / f"{number}.jpg").write_bytes(contents[number % 36] + number.to_bytes(2, "big"))
    with Collection.open(empty) as collection:
        deadline = time.monotonic() + 60
        while not collection.info().images and time.monotonic() < deadline:
            time.sleep(0.02)
        assert watch.end(signal.SIGKILL)[0] == -signal.SIGKILL
        before = collection.info().images
        assert before
        again = Watch(empty, folder)
        assert (again.first["unchanged"], again.first["added"]) == (before, 500 - before)
        time.sleep(1)  # until it waits
        assert again.end()[0] == 0
        assert collection.check() == []


def test_a_burst_is_few_batches(empty, folder, crops):
    reports, _ = watching(empty, folder)
    contents = [Path(crop).read_bytes() for crop in crops]

    def burst():
        for number in range(600):
            parent = folder / str(number % 7) / str(number % 3)
            parent.mkdir(parents=True, exist_ok=True)
            extra = number.to_bytes(2, "big")
            (parent / f"{number}.jpg").write_bytes(contents[number % 36] + extra)

    writer = threading.Thread(target=burst)
    writer.start()
    added = batches = 0
    while added < 600:
        added += next(reports).added
        batches += 1
    writer.join()
    assert batches < 10


def test_a_file_is_stored_when_it_is_whole(empty, folder, crops):
    reports, _ = watching(empty, folder)
    content = Path(crops[0]).read_bytes()

    def write():
        with (folder / "slow.jpg").open("wb", buffering=0) as file:
            for start in range(0, len(content), len(content) // 20):
                file.write(content[start : start + len(content) // 20])
                time.sleep(0.03)

    writer = threading.Thread(target=write)
    writer.start()
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    writer.join()
    half = folder / "half.jpg"
    half.write_bytes(content[:900])  # and then the writer stalls
    assert told(next(reports)) == (0, 0, 0, 1, 0)
    half.write_bytes(content + b"\0")
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    half.write_bytes(Path(crops[1]).read_bytes())
    assert told(next(reports)) == (0, 1, 0, 0, 0)


def test_moves_are_noticed_and_deletions_are_for_prune(empty, folder, crops):
    shutil.copy(crops[0], folder / "a.jpg")
    reports, first = watching(empty, folder)
    assert first.added == 1
    (folder / "a.jpg").rename(folder / "b.jpg")
    assert told(next(reports)) == (0, 0, 1, 0, 0)
    (folder / "new").mkdir()
    (folder / "b.jpg").rename(folder / "new" / "b.jpg")
    assert told(next(reports)) == (0, 0, 1, 0, 0)
    (folder / "new").rename(folder / "newer")
    assert told(next(reports)) == (0, 0, 1, 0, 0)
    (folder / "newer" / "b.jpg").unlink()
    shutil.copy(crops[1], folder)
    report = next(reports)
    assert (told(report), report.not_found) == ((1, 0, 0, 0, 0), 0)
    assert stored(empty) == {"b.jpg", Path(crops[1]).name}


def test_what_an_ingest_leaves_out_is_left_out(empty, folder, crops):
    settings = IngestSettings(exclude="*.tmp.jpg")
    reports, _ = watching(empty, folder, settings=settings)
    make_collection(folder / "other")
    for name in (
        ".hidden.jpg",
        ".trash/a.jpg",
        "@eaDir/a.jpg",
        "a.tmp.jpg",
        "other/a.jpg",
        "a.txt",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(crops[0], folder / name)
    (folder / "a.txt").write_text("no image")
    time.sleep(0.5)
    shutil.copy(crops[1], folder / "good.jpg")
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    assert stored(empty) == {"good.jpg"}


def test_a_folder_with_two_names_has_its_own_one(empty, folder, crops):
    (folder / "own").mkdir()
    (folder / "link").symlink_to("own")
    reports, _ = watching(empty, folder)
    shutil.copy(crops[0], folder / "link" / "a.jpg")
    (folder / "b.jpg").symlink_to(folder / "own" / "a.jpg")
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    with Collection.open(empty) as collection:
        assert [image.path for image in collection.images()] == [str(folder / "own" / "a.jpg")]


def test_a_root_may_vanish_and_come_back(empty, folder, crops, tmp_path):
    late = tmp_path / "late"
    reports, first = watching(empty, folder, late)
    assert told(first) == (0, 0, 0, 0, 1)
    folder.rename(tmp_path / "away")
    assert [refusal.path for refusal in next(reports).unreachable] == [str(folder)]
    shutil.copy(crops[0], tmp_path / "away")
    (tmp_path / "away").rename(folder)
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    shutil.copy(crops[1], folder)
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    late.mkdir()
    shutil.copy(crops[2], late)
    assert told(next(reports)) == (1, 0, 0, 0, 0)


def test_names_that_are_not_utf8_are_stored(empty, folder, crops):
    reports, _ = watching(empty, folder)
    shutil.copy(crops[0], os.fsencode(folder) + b"/\xff.jpg")
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    shutil.copy(crops[1], folder)  # it still watches
    assert told(next(reports)) == (1, 0, 0, 0, 0)


def test_where_nobody_notices_it_looks_now_and_then(empty, folder, crops, caplog):
    root = os.fsdecode(os.fsencode(folder) + b"/\xff")
    os.mkdir(root)
    (Path(root) / "a.txt").write_text("no image")
    reports, _ = watching(empty, root)
    assert "nobody says what changes" in caplog.text
    shutil.copy(crops[0], root)
    assert told(next(reports)) == (1, 0, 0, 0, 0)
    (Path(root) / "half.jpg").write_bytes(Path(crops[1]).read_bytes()[:900])
    assert told(next(reports)) == (0, 0, 0, 1, 0)
    written = (empty / "lock").stat().st_mtime_ns
    notices = Notices([root], str(empty), SOON)
    looks = [notices.wait() for _ in range(8)]
    assert {frozenset(look) for look in looks} == {frozenset(), frozenset({root})}  # now and then
    assert (empty / "lock").stat().st_mtime_ns == written
    shutil.copy(crops[1], Path(root) / "half.jpg")
    assert told(next(reports)) == (1, 0, 0, 0, 0)


def test_network_shares_are_looked_at_now_and_then(tmp_path, monkeypatch, caplog):
    share, local = tmp_path / "a share", tmp_path / "local"
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"31 22 0:50 / {tmp_path}/a\\040share rw shared:2 - cifs //nas/photos rw\n"
    )
    monkeypatch.setattr("imgsim.mounts._TABLE", str(table))
    for folder in (share / "2026", local):
        folder.mkdir(parents=True)
    notices = Notices([str(share / "2026"), str(local)], str(tmp_path / "c"), SOON)
    assert [record.args[0] for record in caplog.records] == [str(share / "2026")]
    (local / "a.jpg").touch()
    looks = set().union(*(notices.wait() for _ in range(12)))
    assert looks == {str(share / "2026"), str(local / "a.jpg")}


def test_what_cannot_be_read_is_told_once_and_tried_again(empty, folder, crops):
    """A link to nothing, which something comes to be."""
    reports, _ = watching(empty, folder)
    (folder / "a.jpg").symlink_to(folder.parent / "target.jpg")
    assert told(next(reports)) == (0, 0, 0, 0, 1)
    shutil.copy(crops[0], folder.parent / "target.jpg")
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(folder.parent / "target.jpg")
    assert told(next(reports)) == (1, 0, 0, 0, 0)


def test_a_dry_run_cannot_go_on(folder, imgsim):
    done = imgsim("ingest", "--watch", "--dry-run", folder)
    assert done.returncode == 2
    assert b"--watch goes with none of --from-file" in done.stderr


def test_the_extra_is_named_where_it_is_missing(filled, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(ExtraMissing, match=r"imgsim\[watch\]"):
        next(filled.watch(folder))
