import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from imgsim import Collection, errors
from imgsim import __version__ as imgsim_version
from imgsim.cli.console import Lines
from imgsim.output.listing import NEIGHBOUR_COLUMNS
from tests.conftest import interruptible, make_collection


def lines(data: bytes) -> list[str]:
    return data.decode().splitlines()


@pytest.fixture
def stored(empty, pictures, imgsim):
    """The path of a collection that the command filled."""
    done = imgsim("-c", empty, "ingest", pictures)
    assert done.returncode == 0, done.stderr
    return empty


def wait_for(text, stream):
    """Read lines until one has the text."""
    assert any(text in line for line in iter(stream.readline, b""))


class TestIngest:
    def test_report(self, empty, pictures, imgsim):
        (pictures / "bad.jpg").write_text("x")
        (pictures / "notes.txt").write_text("x")
        done = imgsim("-c", empty, "ingest", pictures)
        assert done.returncode == 0
        assert done.stdout == b""
        assert lines(done.stderr) == [
            f"refused: {pictures}/bad.jpg: not an image in a known format",
            "38 files: 36 added, 0 changed, 0 moved, 0 unchanged, 1 refused, 0 unreachable, "
            "1 not images",
        ]
        again = imgsim("-c", empty, "ingest", pictures, "--json")
        assert json.loads(again.stdout) == {
            "schema": 1,
            "seen": 38,
            "added": 0,
            "changed": 0,
            "moved": 0,
            "unchanged": 36,
            "skipped": 1,
            "refused": [
                {"path": f"{pictures}/bad.jpg", "reason": "not an image in a known format"}
            ],
            "unreachable": [],
            "not_found": 0,
            "linked": 0,
            "hard_linked": 0,
            "damaged": 0,
            "excluded": {},
            "warnings": [],
            "dry_run": False,
        }
        assert imgsim("-q", "-c", empty, "ingest", pictures).stderr == b""

    def test_strict(self, empty, pictures, imgsim):
        assert imgsim("-c", empty, "ingest", pictures, "--strict").returncode == 0
        (pictures / "bad.jpg").write_text("x")
        assert imgsim("-c", empty, "ingest", pictures, "--strict").returncode == 20

    def test_dry_run(self, empty, pictures, imgsim):
        done = imgsim("-c", empty, "ingest", pictures, "--dry-run")
        assert "36 to add" in done.stderr.decode()
        assert json.loads(imgsim("-c", empty, "info", "--json").stdout)["images"] == 0

    @pytest.mark.parametrize("end", [b"\n", b"\0"])
    def test_lists_of_paths(self, empty, crops, imgsim, tmp_path, end):
        listed = end.join(os.fsencode(path) for path in crops[:4]) + end
        null = ["-0"] if end == b"\0" else []
        done = imgsim("-c", empty, "ingest", "--from-file", "-", *null, input=listed)
        assert "4 added" in done.stderr.decode()
        (tmp_path / "list").write_bytes(listed)
        done = imgsim("-c", empty, "ingest", "--from-file", tmp_path / "list", *null, crops[4])
        assert "1 added, 0 changed, 0 moved, 4 unchanged" in done.stderr.decode()

    def test_a_list_made_on_windows(self, empty, crops, imgsim):
        listed = b"\xef\xbb\xbf" + b"".join(os.fsencode(path) + b"\r\n" for path in crops[:3])
        done = imgsim("-c", empty, "ingest", "--from-file", "-", input=listed)
        assert "3 files: 3 added" in done.stderr.decode()

    def test_nothing_named(self, empty, imgsim, tmp_path):
        assert imgsim("-c", empty, "ingest").returncode == 2
        assert imgsim("-c", empty, "ingest", "").returncode == 2
        done = imgsim("-c", empty, "ingest", tmp_path / "nowhere")
        assert done.returncode == 20
        assert (
            lines(done.stderr)[0] == f"unreachable: {tmp_path}/nowhere: No such file or directory"
        )
        assert imgsim("-c", empty, "ingest", "--from-file", tmp_path / "nowhere").returncode == 2

    def test_one_bad_name_does_not_stop_the_others(self, empty, crops, imgsim):
        done = imgsim("-c", empty, "ingest", crops[0], "/nowhere.jpg", crops[1])
        assert done.returncode == 0
        assert (
            "2 added, 0 changed, 0 moved, 0 unchanged, 0 refused, 1 unreachable"
            in done.stderr.decode()
        )

    def test_nul_separated_names_read_as_lines(self, empty, crops, imgsim):
        """Forgetting -0 is one line of refusal, not a traceback."""
        listed = "\0".join(crops[:2]).encode()
        done = imgsim("-c", empty, "ingest", "--from-file", "-", input=listed)
        assert done.returncode == 20
        assert lines(done.stderr)[0].endswith("embedded null byte")

    @contextmanager
    def interrupted(self, *arguments):
        """Run a command, and send SIGINT when it has done a file."""
        command = [sys.executable, "-m", "imgsim", "-v", *map(os.fspath, arguments)]
        with subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            preexec_fn=interruptible,  # noqa: PLW1509 - it only resets a signal
        ) as process:
            wait_for(b"the first file is done", process.stderr)
            process.send_signal(signal.SIGINT)
            wait_for(b"storing what is encoded; Ctrl-C again leaves at once\n", process.stderr)
            yield process
        assert process.returncode == 130

    def test_ctrl_c_keeps_what_is_encoded_and_says_how_to_go_on(
        self, empty, pictures, imgsim, crops
    ):
        many = pictures / "many"
        many.mkdir()
        contents = [Path(crop).read_bytes() for crop in crops]
        for number in range(6_000):  # each another content
            tail = number.to_bytes(2, "big")
            (many / f"{number}.jpg").write_bytes(contents[number % 36] + tail)
        with self.interrupted("-c", empty, "ingest", many) as process:
            told = process.stderr.read()
        assert lines(told)[-1:] == [
            "interrupted: what is encoded was stored; run the same command again to go on"
        ]
        before = json.loads(imgsim("-c", empty, "info", "--json").stdout)["images"]
        assert 0 < before < 6_000
        report = json.loads(imgsim("-c", empty, "ingest", many, "--json").stdout)
        assert (report["added"], report["unchanged"]) == (6_000 - before, before)

    def test_ctrl_c_when_nobody_listens_any_more(self, empty, pictures, crops):
        """As in a pipe to a command that the same Ctrl-C has ended."""
        Image.new("RGB", (3_000, 3_000)).save(pictures / "0.png", compress_level=1)
        content = (pictures / "0.png").read_bytes()
        for number in range(1, 400):  # what comes after the end makes it another file
            (pictures / f"{number}.png").write_bytes(content + str(number).encode())
        command = [sys.executable, "-m", "imgsim", "-v", "-c", empty, "ingest", pictures, crops[0]]
        ours, theirs = os.pipe()
        with subprocess.Popen(
            command,
            stderr=theirs,
            preexec_fn=interruptible,  # noqa: PLW1509 - it only resets a signal
        ) as process:
            os.close(theirs)
            with os.fdopen(ours, "rb") as told:
                wait_for(b"the first file is done", told)
            process.send_signal(signal.SIGINT)
        assert process.returncode == 1
        with Collection.open(empty) as collection:
            assert 0 < collection.info().images < 437

    def test_stderr_may_be_closed(self, empty, pictures):
        command = f"exec {sys.executable} -m imgsim -c {empty} ingest {pictures} --json 2>&-"
        done = subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE)
        assert json.loads(done.stdout)["added"] == 36

    def test_a_second_ctrl_c_waits_for_nobody(self, stored, pictures, imgsim):
        for number in range(4):  # each takes a second to decode
            image = Image.new("RGB", (12_000, 12_000 + number))
            image.save(pictures / f"{number}.png", compress_level=1)
        with self.interrupted("-c", stored, "ingest", pictures) as process:
            process.send_signal(signal.SIGINT)
            assert process.stderr.read() == b""
        assert imgsim("-c", stored, "check").returncode == 0
        assert json.loads(imgsim("-c", stored, "info", "--json").stdout)["images"] >= 36


class TestQuery:
    def test_table(self, stored, crops, imgsim, pictures):
        done = imgsim("-c", stored, "query", crops[0], crops[1], "-k", "2")
        table = lines(done.stdout)
        assert done.stderr == b""
        assert table[0] == crops[0]
        assert table[1].split() == ["rank", "distance", "id", "path"]
        assert table[2].split() == ["1", "0", "1", f"{pictures}/astronaut-0.jpg"]
        assert table[4] == ""
        assert len(table) == 9

    def test_jsonl(self, stored, crops, imgsim, pictures):
        done = imgsim("-c", stored, "query", *crops[:3], "-k", "2", "--format", "jsonl")
        rows = [json.loads(line) for line in lines(done.stdout)]
        assert [row["path"] for row in rows] == [crop for crop in crops[:3] for _ in range(2)]
        assert rows[2] == {
            "schema": 1,
            "image_id": None,
            "path": crops[1],
            "rank": 1,
            "neighbour_id": 2,
            "neighbour_path": f"{pictures}/astronaut-1.jpg",
            "distance": 0.0,
        }
        assert imgsim("-c", stored, "query", *crops[:3], "-k2", "--json").stdout == done.stdout

    def test_a_folder_asks_with_the_images_in_it(self, stored, crops, imgsim, tmp_path):
        folder = tmp_path / "work" / "some"
        (folder / "deep").mkdir(parents=True)
        (folder / "empty").mkdir()
        (folder / "notes.txt").write_text("x")
        (folder / "bad.jpg").write_text("x")
        shutil.copy(crops[0], folder / "deep" / "b.jpg")
        shutil.copy(crops[1], folder / "no-suffix")
        done = imgsim("-c", stored, "query", "some", "-k1", "--format", "paths")
        assert [os.path.basename(line) for line in lines(done.stdout)] == [
            os.path.basename(crop) for crop in crops[:2]
        ]
        assert lines(done.stderr) == [
            f"imgsim: error: {folder}/bad.jpg: not an image in a known format"
        ]
        assert done.returncode == 22
        done = imgsim("-c", stored, "query", "some/empty")
        told = "imgsim: error: some/empty: there are no images in this folder"
        assert (done.returncode, lines(done.stderr)) == (21, [told])
        done = imgsim("-c", stored, "query", crops[0], "-", "-k1", input=b"some/empty\n")
        assert lines(done.stdout)[0] == crops[0]
        assert (done.returncode, lines(done.stderr)) == (21, [told])

    def test_its_own_file_and_copies_are_left_out(self, stored, pictures, crops, imgsim):
        shutil.copy(crops[0], pictures / "copy.jpg")
        shutil.copy(crops[1], pictures / "one-more.jpg")
        imgsim("-c", stored, "ingest", pictures)
        ask = ("-c", stored, "query", pictures / "astronaut-0.jpg", "-k40", "--format", "paths")
        everything = lines(imgsim(*ask).stdout)
        assert len(everything) == 38
        assert everything[:2] == [f"{pictures}/astronaut-0.jpg", f"{pictures}/copy.jpg"]
        assert lines(imgsim(*ask, "--no-self").stdout) == everything[1:]
        distinct = [name for name in everything[2:] if not name.endswith("one-more.jpg")]
        assert lines(imgsim(*ask, "--distinct").stdout) == distinct
        assert len(lines(imgsim(*ask, "--distinct", "-k35").stdout)) == 35

    def test_no_self_by_way_of_a_link(self, stored, pictures, imgsim, tmp_path):
        (tmp_path / "work" / "link").symlink_to(pictures)
        ask = ("-c", stored, "query", "link/astronaut-0.jpg", "-k1", "--format", "paths")
        assert lines(imgsim(*ask).stdout) == [f"{pictures}/astronaut-0.jpg"]
        assert lines(imgsim(*ask, "--no-self").stdout) != [f"{pictures}/astronaut-0.jpg"]

    def test_distinct_after_the_file_has_changed(self, stored, pictures, crops, imgsim):
        """What is stored under its path has no longer the query's content."""
        shutil.copy(crops[0], pictures / "copy.jpg")
        imgsim("-c", stored, "ingest", pictures)
        shutil.copy(crops[1], pictures / "astronaut-0.jpg")
        ask = ("-c", stored, "query", pictures / "astronaut-0.jpg", "-k40", "--format", "paths")
        found = lines(imgsim(*ask, "--distinct").stdout)
        assert f"{pictures}/astronaut-1.jpg" not in found
        assert f"{pictures}/astronaut-0.jpg" in found
        assert f"{pictures}/copy.jpg" not in found
        found = lines(imgsim(*ask, "--no-self").stdout)
        assert found[0] == f"{pictures}/astronaut-1.jpg"
        assert f"{pictures}/astronaut-0.jpg" not in found
        assert f"{pictures}/copy.jpg" in found

    def test_a_closed_stdout_is_no_error(self, stored, crops):
        for form in ("table", "jsonl", "csv", "paths"):
            command = [sys.executable, "-m", "imgsim", "-c", stored, "query", crops[0]]
            done = subprocess.run(
                ["sh", "-c", '"$@" >&-', "sh", *map(str, command), "--format", form],
                capture_output=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, b"")

    def test_two_formats_are_one_too_many(self, stored, crops, imgsim):
        done = imgsim("-c", stored, "query", crops[0], "--json", "--format", "csv")
        assert done.returncode == 2

    def test_an_empty_answer_says_why(self, stored, empty, crops, imgsim, pictures, tmp_path):
        query = ("-c", stored, "query", crops[0])
        other = make_collection(tmp_path / "other")
        for told, arguments in [
            (
                "no image is stored yet; `imgsim ingest` stores them",
                ["-c", other, "query", crops[0]],
            ),
            (
                "no stored image is in the folders that --under and --not-under leave",
                [*query, "--under", "phtos"],
            ),
            (
                "1 of 1 queries have no other stored image within 0",
                [*query[:3], "new.png", "--radius", "0"],
            ),
        ]:
            Image.new("RGB", (9, 9)).save(tmp_path / "work" / "new.png")
            done = imgsim(*arguments)
            assert (done.returncode, lines(done.stderr)) == (0, [told])
            assert imgsim("-q", *arguments).stderr == b""
        home = os.environ | {"HOME": str(pictures)}
        assert imgsim(*query, "--under", "~", "-k", "1", env=home).stderr == b""

    def test_csv(self, stored, crops, imgsim):
        done = imgsim("-c", stored, "query", *crops[:2], "-k", "3", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
        assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
        assert list(rows[0]) == list(NEIGHBOUR_COLUMNS)

    def test_paths_on_stdin_one_bad(self, stored, crops, imgsim, pictures):
        listed = f"{crops[0]}\n/nowhere.jpg\n{crops[1]}\n".encode()
        done = imgsim("-c", stored, "query", "-", "-k", "1", "--format", "paths", input=listed)
        assert lines(done.stdout) == [f"{pictures}/astronaut-{i}.jpg" for i in (0, 1)]
        assert lines(done.stderr) == ["imgsim: error: /nowhere.jpg: No such file or directory"]
        assert done.returncode == 21

    def test_names_that_are_not_utf8_go_through(self, stored, imgsim, pictures, crops):
        odd = os.path.join(os.fsencode(pictures), b"a\xff\n.jpg")
        shutil.copy(crops[0], odd)
        os.unlink(pictures / "astronaut-0.jpg")
        assert imgsim("-c", stored, "ingest", pictures).returncode == 0
        done = imgsim("-c", stored, "query", "-", "-0k2", "--format", "paths", input=odd + b"\0")
        assert done.stdout.split(b"\0")[0] == odd
        done = imgsim("-c", stored, "query", odd, "-k2", "--format", "jsonl")
        answer = json.loads(lines(done.stdout)[0])
        assert os.fsencode(answer["path"]) == os.fsencode(answer["neighbour_path"]) == odd
        done = imgsim("-c", stored, "query", odd, "-k2")
        assert len(lines(done.stdout)) == 4
        assert "a\\udcff\\n.jpg" in done.stdout.decode()

    def test_figure_and_page(self, stored, crops, imgsim, tmp_path):
        figure, page = tmp_path / "figure.png", tmp_path / "page.html"
        done = imgsim("-c", stored, "query", crops[0], "--figure", figure, "--html", page)
        assert lines(done.stderr) == [f"figure: {figure}", f"page: {page}"]
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert page.read_text().startswith("<!doctype html>")
        many = imgsim("-c", stored, "query", *crops, "-k9", "--figure", figure)
        assert lines(many.stderr) == [
            f"figure: {figure} (120 queries and matches more are left out)"
        ]

    def test_a_radius_asks_for_all_within(self, stored, crops, imgsim):
        def distances(*arguments):
            done = imgsim("-c", stored, "query", crops[0], *arguments, "--json")
            return [json.loads(line)["distance"] for line in lines(done.stdout)]

        everything = distances("-k", "36")
        assert distances("--radius", str(everything[14])) == everything[:15]
        assert distances("--radius", str(everything[14]), "-k2") == everything[:2]
        for radius in ("-1", "nan", "x"):
            assert imgsim("-c", stored, "query", crops[0], "--radius", radius).returncode == 2

    def test_folders_are_searched_or_left_out(self, stored, crops, imgsim, tmp_path, pictures):
        (tmp_path / "work" / "new").mkdir()
        shutil.copy(crops[0], tmp_path / "work" / "new" / "a.jpg")
        imgsim("-c", stored, "ingest", "new")
        ask = ("-c", stored, "query", crops[0], "--format", "paths", "-k36")
        assert len(lines(imgsim(*ask).stdout)) == 36
        new = [f"{tmp_path}/work/new/a.jpg"]
        assert lines(imgsim(*ask, "--under", "new").stdout) == new
        assert lines(imgsim(*ask, "--not-under", pictures).stdout) == new
        assert new[0] not in lines(imgsim(*ask, "--not-under", "new").stdout)
        assert imgsim(*ask, "--under", "elsewhere").stdout == b""

    def test_explain(self, stored, crops, imgsim):
        done = imgsim("-c", stored, "query", *crops[:2], "-k1", "--explain", "--format", "paths")
        (line,) = lines(done.stderr)
        assert line.startswith("2 queries: 0 bounds read, ")
        assert "72 embeddings scanned; " in line

    def test_a_closed_pipe_is_quiet(self, stored, crops):
        command = [sys.executable, "-m", "imgsim", "-c", str(stored), "query", *crops, "-k", "36"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""

    @pytest.mark.parametrize("k", ["0", "-1", "x"])
    def test_k_must_be_positive(self, stored, crops, imgsim, k):
        assert imgsim("-c", stored, "query", crops[0], "-k", k).returncode == 2


class TestUpkeep:
    def test_very_many_are_removed_after_a_yes(self, empty, crops, imgsim, tmp_path):
        folder = tmp_path / "many"
        folder.mkdir()
        for number in range(1_001):
            os.link(crops[0], folder / f"{number}.jpg")
        imgsim("-c", empty, "ingest", folder)
        done = imgsim("-c", empty, "remove", "/")
        assert done.returncode == 2
        assert lines(done.stderr)[-1].endswith("1,001 images would be forgotten; say so with --yes")
        assert json.loads(imgsim("-c", empty, "info", "--json").stdout)["images"] == 1_001
        done = imgsim("-c", empty, "remove", "/", "--yes")
        assert lines(done.stderr) == ["forgotten: 1,001 images, 0 refused files"]

    def test_a_place_without_the_files_wants_force(self, stored, pictures, imgsim):
        done = imgsim("-c", stored, "relocate", pictures, "elsewhere")
        assert done.returncode == 21
        assert "36 of 36 images are not there" in lines(done.stderr)[0]
        done = imgsim("-c", stored, "relocate", pictures, "elsewhere", "--force")
        assert lines(done.stderr)[0] == "relocated: 36 images, 0 refused files"

    def test_a_folder_of_nothing_is_not_relocated(self, stored, pictures, imgsim):
        (pictures / "nothing").mkdir()
        imgsim("-c", stored, "ingest", pictures / "nothing")
        before = imgsim("-c", stored, "info", "--json").stdout
        done = imgsim("-c", stored, "relocate", pictures / "nothing", pictures / "else")
        assert done.returncode == 21
        roots = json.loads(before)["roots"]
        assert json.loads(imgsim("-c", stored, "info", "--json").stdout)["roots"] == roots

    def test_repair(self, stored, imgsim):
        (segment,) = (stored / "segments").glob("*.faiss")
        segment.unlink()
        assert imgsim("-c", stored, "check").returncode == 14
        done = imgsim("-c", stored, "check", "--repair", "--deep")
        assert done.returncode == 0
        assert lines(done.stdout) == [
            f"{segment}: expected an IndexFlatL2 of 36 x 16, found no file"
        ]
        assert lines(done.stderr) == [
            "encoded again: 36 images; forgotten: 0; kept damaged: 0; bounds made anew: 0",
            "every file is as the catalog says",
        ]

    def test_repair_without_the_pictures(self, stored, pictures, imgsim):
        (segment,) = (stored / "segments").glob("*.faiss")
        segment.unlink()
        pictures.rename(pictures.with_name("unplugged"))
        done = imgsim("-c", stored, "check", "--repair")
        assert done.returncode == 14
        assert lines(done.stderr)[0] == (
            f"files that cannot be reached: 36, first {pictures}/astronaut-0.jpg; repair again "
            "when they can"
        )
        assert json.loads(imgsim("-c", stored, "info", "--json").stdout)["images"] == 36

    def test_prune(self, stored, pictures, imgsim):
        first, second = sorted(pictures.iterdir())[:2]
        first.unlink()
        dry = imgsim("-c", stored, "prune", "--dry-run")
        assert dry.stdout.decode() == f"{first}\n"
        assert lines(dry.stderr) == ["would be forgotten: 1 images, 0 refused files"]
        done = imgsim("-c", stored, "prune", "--json")
        assert json.loads(done.stdout) == {
            "schema": 1,
            "images": 1,
            "refused": 0,
            "paths": [str(first)],
            "missing": [],
            "dry_run": False,
        }
        gone = pictures.rename(pictures.with_name("unplugged"))
        kept = imgsim("-c", stored, "prune")
        assert lines(kept.stderr) == [
            "forgotten: 0 images, 0 refused files",
            f"kept: the images of {pictures}, which is missing or empty",
        ]
        gone.rename(pictures)
        assert imgsim("-c", stored, "query", second).returncode == 0

    def test_remove(self, stored, pictures, imgsim):
        done = imgsim("-c", stored, "remove", sorted(pictures.iterdir())[0], "/nowhere")
        assert done.returncode == 21
        assert lines(done.stderr) == [
            "forgotten: 1 images, 0 refused files",
            "imgsim: error: /nowhere: nothing is stored at or under it",
        ]

    def test_empty_paths_are_mistakes(self, stored, imgsim, crops):
        for arguments in (
            ["remove", ""],
            ["relocate", "", "/x"],
            ["relocate", "/x", "/"],
            ["query", crops[0], "--under", ""],
        ):
            assert imgsim("-c", stored, *arguments).returncode == 2
        assert json.loads(imgsim("-c", stored, "info", "--json").stdout)["images"] == 36

    def test_what_is_gone_is_mentioned(self, stored, pictures, imgsim):
        sorted(pictures.iterdir())[0].unlink()
        told = lines(imgsim("-c", stored, "ingest", pictures).stderr)
        assert told[1] == (
            "stored images that were not found at these paths: 1; "
            "`imgsim prune` forgets those that are gone"
        )

    def test_compact(self, stored, pictures, imgsim):
        imgsim("-c", stored, "remove", sorted(pictures.iterdir())[0])
        dry = imgsim("-c", stored, "compact", "--dry-run")
        assert lines(dry.stderr) == ["segments before: 1, after: 1; embeddings would be dropped: 1"]
        done = imgsim("-c", stored, "compact", "--json")
        assert json.loads(done.stdout) == {
            "schema": 1,
            "before": 1,
            "after": 1,
            "dropped": 1,
            "dry_run": False,
        }
        assert lines(imgsim("-c", stored, "compact").stderr) == [
            "segments before: 1, after: 1; embeddings dropped: 0"
        ]

    def test_relocate(self, stored, pictures, imgsim):
        new = pictures.rename(pictures.with_name("new"))
        (new / "astronaut-0.jpg").unlink()
        done = imgsim("-c", stored, "relocate", pictures, new)
        assert lines(done.stderr) == [
            "relocated: 36 images, 0 refused files",
            f"1 of them are not there, first {new}/astronaut-0.jpg",
        ]
        again = imgsim("-c", stored, "relocate", pictures, new)
        assert again.returncode == 21

    def test_refused_files_are_listed(self, stored, pictures, imgsim):
        (pictures / "bad\n.jpg").write_text("x")
        assert imgsim("-c", stored, "ingest", pictures).returncode == 0
        done = imgsim("-c", stored, "info", "--refused")
        assert lines(done.stdout) == [f"{pictures}/bad\\n.jpg\tnot an image in a known format"]
        done = imgsim("-c", stored, "info", "--refused", "--json")
        assert json.loads(done.stdout)["path"] == f"{pictures}/bad\n.jpg"


class TestExport:
    def test_every_export(self, stored, imgsim, tmp_path):
        for what, name in [
            ("neighbours", "n.csv"),
            ("neighbours", "n.jsonl"),
            ("neighbours", "n.parquet"),
            ("neighbours", "n.npz"),
            ("embeddings", "f.npz"),
            ("embeddings", "f.parquet"),
            ("embeddings", "f.pkl"),
            ("neighbors", "american.csv"),
            ("index", "i.faiss"),
        ]:
            done = imgsim("-c", stored, "export", what, "-o", tmp_path / name)
            assert done.returncode == 0, done.stderr
            assert done.stdout == b""
            assert (tmp_path / name).stat().st_size > 100

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_to_stdout(self, stored, imgsim, tmp_path, form):
        name = tmp_path / f"n.{form}"
        imgsim("-c", stored, "export", "neighbours", "-k3", "-o", name)
        done = imgsim("-c", stored, "export", "neighbours", "-k3", "-o", "-", "--format", form)
        assert done.stdout == name.read_bytes()
        assert done.stderr == b""

    def test_without_exact_copies(self, stored, pictures, crops, imgsim):
        shutil.copy(crops[0], pictures / "copy.jpg")
        imgsim("-c", stored, "ingest", pictures)
        done = imgsim("-c", stored, "export", "neighbours", "-k99", "-o", "-", "--distinct")
        rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
        counts = Counter(os.path.basename(row["path"]) for row in rows)
        assert {counts.pop("astronaut-0.jpg"), counts.pop("copy.jpg"), *counts.values()} == {35}

    def test_a_wrong_name_is_told_first(self, tmp_path):
        """There is not even an encoder."""
        with Collection.open(tmp_path / "new", create=True) as collection:
            for export in (
                collection.export_neighbours,
                collection.export_embeddings,
                collection.export_index,
            ):
                with pytest.raises(errors.OutputError):
                    export(tmp_path / "n.txt")

    def test_a_wrong_name(self, stored, imgsim, tmp_path):
        done = imgsim("-c", stored, "export", "neighbours", "-o", tmp_path / "n.txt")
        assert done.returncode == 2
        assert len(lines(done.stderr)) == 1


class TestInfoAndCheck:
    def test_info(self, stored, imgsim, pictures):
        facts = json.loads(imgsim("-c", stored, "info", "--json").stdout)
        assert facts["images"] == 36
        assert facts["image_size"] == [32, 32]
        assert facts["schema"] == 1
        assert facts["roots"] == [str(pictures)]
        assert facts["fingerprint"].startswith(facts["encoder"])
        assert facts["disk_bytes"] > facts["embedding_bytes"] == 36 * 16 * 4
        assert {"JPEG", "PNG"} <= set(facts["formats"])
        assert facts["versions"]["imgsim"] == imgsim_version
        shown = imgsim("-c", stored, "info").stdout.decode()
        assert re.search(r"^images +36$", shown, re.MULTILINE)

    def test_check_names_the_damage(self, stored, imgsim):
        assert imgsim("-c", stored, "check").returncode == 0
        (segment,) = (stored / "segments").glob("*.faiss")
        os.truncate(segment, 100)
        done = imgsim("-c", stored, "check")
        assert done.returncode == 14
        assert str(segment) in done.stdout.decode()
        (damage,) = json.loads(imgsim("-c", stored, "check", "--json").stdout)["damages"]
        assert damage["path"] == str(segment)
        done = imgsim("-c", stored, "check", "--json", "--repair")
        assert done.returncode == 0
        told = json.loads(done.stdout)
        assert (told["schema"], told["damages"], told["repair"]["encoded"]) == (1, [], 36)


class TestOptionsAfterTheCommand:
    def test_collection_and_quiet(self, stored, crops, imgsim):
        first = imgsim("-c", stored, "query", crops[0])
        assert imgsim("query", "-c", stored, crops[0]).stdout == first.stdout
        assert imgsim("query", crops[0], f"--collection={stored}").stdout == first.stdout
        assert imgsim("-c", "/nowhere", "query", crops[0], "-c", stored).stdout == first.stdout
        assert imgsim("ingest", crops[0], "-qc", stored).stderr == b""
        assert imgsim("encoder", "list", "-c", stored).returncode == 0
        assert imgsim("encoder", "-c", stored, "list").returncode == 0
        assert imgsim("export", "neighbours", "-o", "n.csv", "-c", stored, "-q").stderr == b""

    def test_verbose_and_debug(self, stored, crops, imgsim):
        done = imgsim("-v", "query", "-c", stored, crops[0], "-v")
        assert done.stderr.decode().count("encoded 1 images") == 1
        done = imgsim("query", crops[0], "--debug")
        assert b"Traceback" in done.stderr


class TestErrors:
    def test_no_collection(self, imgsim, crops, tmp_path):
        for arguments in (["info"], ["check"], ["query", crops[0]], ["ingest", crops[0]]):
            done = imgsim(*arguments)
            assert done.returncode == 11
            (line,) = lines(done.stderr)
            assert line.startswith("imgsim: error: ")
            assert "imgsim train" in line
        assert os.listdir(tmp_path / "work") == []

    def test_the_environment_names_the_collection(self, stored, imgsim):
        done = imgsim("info", "--json", env=os.environ | {"IMGSIM_COLLECTION": str(stored)})
        assert json.loads(done.stdout)["images"] == 36

    def test_no_encoder_yet(self, tmp_path, imgsim, crops):
        Collection.open(tmp_path / "c", create=True).close()
        assert imgsim("-c", tmp_path / "c", "query", crops[0]).returncode == 31

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["query", "x", "-k", "x"], "'-k': must be a valid whole number"),
            (["query", "x", "-k", "0"], "'-k': must be at least 1"),
            (["query", "x", "--format", "x"], "'--format': 'x' is not one of 'table', 'jsonl', "),
            (["-c", sys.executable, "info"], ": is a file; a collection is a folder"),
            (["-c", sys.executable, "train", "."], ": is a file; a collection is a folder"),
        ],
    )
    def test_mistakes_are_said_in_plain_words(self, imgsim, arguments, told):
        last = lines(imgsim(*arguments).stderr)[-1]
        assert told in last
        assert "Value error" not in last

    def test_mistakes_give_one_line(self, stored, imgsim, crops, tmp_path):
        for code, arguments in [
            (10, ["-c", "x" * 300, "info"]),
            (11, ["-c", f"{stored}/catalog.db", "info"]),
            (2, ["-c", stored, "query", "nowhere", "--html", crops[1]]),
            (2, ["-c", stored, "query", "nowhere", "--figure", f"{tmp_path}/figure.doc"]),
            (2, ["-c", stored, "query", "nowhere", "--figure", "gone/figure.png"]),
            (2, ["-c", stored, "evaluate", "nowhere", "--figure", "figure.doc"]),
            (2, ["-c", stored, "export", "neighbours", "-o", "/dev/null.csv/x.csv"]),
        ]:
            done = imgsim(*arguments)
            assert done.returncode == code, done.stderr
            assert len(lines(done.stderr)) == 1, done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--image-size", "40"],
            ["--validation-split", "0"],
            ["--learning-rate", "0"],
            ["--seed", "99999999999"],
        ],
    )
    def test_settings_that_make_no_sense(self, imgsim, crops, tmp_path, arguments):
        assert imgsim("train", *crops, *arguments).returncode == 2
        assert os.listdir(tmp_path / "work") == []

    def test_a_full_disk_behind_stdout(self, stored, imgsim, crops):
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "imgsim", "-c", stored, "query", *crops, "-k", "36"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert lines(done.stderr)[0] == "imgsim: error: No space left on device"

    def test_debug_shows_the_traceback(self, imgsim, tmp_path):
        done = imgsim("--debug", "-c", tmp_path / "none", "info")
        assert b"Traceback" in done.stderr
        assert b"CollectionNotFound" in done.stderr

    def test_train_on_a_collection_with_vectors(self, stored, pictures, imgsim):
        options = (
            "--recipe",
            "plain",
            "--image-size",
            "32",
            "--epochs",
            "1",
            "--name",
            "my new",
            "--json",
        )
        done = imgsim("-c", stored, "train", pictures, *options)
        assert done.returncode == 0
        told = json.loads(done.stdout)
        assert (told["images"], told["encoder"]["name"]) == (36, "my new")
        told = "`imgsim reencode --encoder 'my new'` gives its 36 images new ones"
        assert told in lines(done.stderr)[-1]

    def test_exit_codes_are_distinct_and_documented(self, imgsim):
        classes = [c for c in vars(errors).values() if isinstance(c, type)]
        codes = [c.exit_code for c in classes if issubclass(c, errors.ImgsimError)]
        assert len(set(codes)) == 18
        told = imgsim("--help").stdout.decode()
        assert set(codes) <= set(map(int, re.findall(r"\d+", told)))
        table = dict(re.findall(r"^(\w+) +(\d+)  ", errors.__doc__, re.MULTILINE))
        assert table == {
            c.__name__: str(c.exit_code) for c in classes if issubclass(c, errors.ImgsimError)
        }


def test_off_a_terminal_long_work_says_a_line(capsys):
    lines = Lines("export", every=0.0)
    lines(5, 100)
    lines(5, 0)
    Lines("export")(5, 100)
    told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"export: 5 of 100, [\d,]+/s, \d:\d\d:\d\d left", told[0])
    assert re.fullmatch(r"export: 5, [\d,]+/s", told[1])
    assert len(told) == 2


class TestTerminal:
    def run_on_a_terminal(self, *arguments, env=None, typed=b"", ends=0):
        """Return what a command shows on a real pseudo-terminal."""
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "imgsim", *map(str, arguments)]
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"} | (env or {})
        with subprocess.Popen(
            command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=environment
        ) as process:
            os.close(slave)
            os.write(master, typed)
            shown = b""
            while True:
                try:
                    part = os.read(master, 65_536)
                except OSError:  # the other end is closed
                    break
                shown += part
            process.stdout.read()
        os.close(master)
        assert process.returncode == ends, shown
        return shown.decode()

    def test_a_bar_with_rate_and_colour_unless_forbidden(self, empty, pictures, crops, tmp_path):
        for number in range(600):
            os.link(crops[number % 36], pictures / f"{number}.jpg")
        shown = self.run_on_a_terminal("-c", empty, "ingest", pictures)
        assert "636/636" in shown
        assert re.search(r"[\d,]+/s", shown)
        assert "\x1b[38;5;" in shown
        plain = self.run_on_a_terminal(
            *("-c", empty, "export", "neighbours", "-o", tmp_path / "n.csv"), env={"NO_COLOR": "1"}
        )
        assert "636/636" in plain
        assert "\x1b[38;5;" not in plain

    def test_a_yes_and_a_return(self, empty, crops, tmp_path):
        folder = tmp_path / "many"
        folder.mkdir()
        for number in range(1_001):
            os.link(crops[0], folder / f"{number}.jpg")
        self.run_on_a_terminal("-q", "-c", empty, "ingest", folder)
        shown = self.run_on_a_terminal("-c", empty, "remove", folder, typed=b"\n", ends=2)
        assert "forget 1,001 images? [y/N]" in shown
        shown = self.run_on_a_terminal("-c", empty, "remove", folder, typed=b"y\n")
        assert "forgotten: 1,001 images" in shown

    def test_rows_go_to_stdout_beside_a_bar(self, stored, imgsim, tmp_path):
        rows = imgsim("-c", stored, "export", "neighbours", "-k3", "-o", "-").stdout
        command = (
            f"{sys.executable} -m imgsim -c {stored} export neighbours -k3 -o - > {tmp_path}/n"
        )
        master, slave = pty.openpty()
        subprocess.run(command, shell=True, stderr=slave, check=True)
        os.close(slave)
        os.close(master)
        assert (tmp_path / "n").read_bytes() == rows

    def test_quiet(self, empty, pictures):
        assert self.run_on_a_terminal("-q", "-c", empty, "ingest", pictures) == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(imgsim, shell):
    environment = os.environ | {"_IMGSIM_COMPLETE": f"complete_{shell}", "COMP_WORDS": "imgsim in"}
    environment |= {"COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "imgsim in"}
    environment |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = imgsim(env=environment)
    assert b"ingest" in done.stdout
    assert b"info" in done.stdout


def test_version(imgsim):
    assert re.fullmatch(r"imgsim \d+\.\d+\.\d+\n", imgsim("--version").stdout.decode())
