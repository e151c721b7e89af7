"""Duplicates, outliers, maps and evaluations over REST, and what a person decides there."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from imgsim import Collection, DuplicateSettings
from imgsim.curation.manifest import manifests
from imgsim.server.settings import ServerSettings
from imgsim.server.work import Done, Pending, Work
from tests.server.serving import served
from tests.server.test_server import KEY, client_of, got

NEAR = DuplicateSettings(0.5)
QUERY = "/api/v1/duplicates?radius=0.5"


def awaited(client, path):
    """Return the answer once there is no progress any more."""
    for _ in range(600):
        answer = got(client.get(path))
        if answer["progress"] is None:
            return answer
        path = path.replace("&anew=true", "")
        time.sleep(0.05)
    raise AssertionError(answer)


def groups(page):
    return [[member["path"] for member in group["members"]] for group in page["groups"]]


@pytest.fixture
def stored(collection, pictures):
    """Photographs, one of which is there in a smaller size, and one as it is."""
    small = pictures / "small <b>.jpg"
    with Image.open(pictures / "astronaut-0.jpg") as image:
        image.resize((64, 64)).save(small)
    shutil.copy2(pictures / "coffee-1.jpg", pictures / "copy.jpg")
    collection.ingest([pictures])
    return collection


@pytest.fixture
def deciding(stored, tmp_path):
    """A server that may change things."""
    with client_of(stored.path, changes=True, move_to=str(tmp_path / "away")) as client:
        yield client


class TestDuplicates:
    def test_they_are_those_of_the_command(self, stored):
        report = stored.curation.duplicates(NEAR)
        expected = [[asdict(member) for member in group.members] for group in report.groups]
        with client_of(stored.path) as client:
            page = awaited(client, QUERY)
            assert [group["members"] for group in page["groups"]] == expected
            assert (page["found"], page["images"], page["current"]) == (2, 38, True)
            first = awaited(client, f"{QUERY}&most=1")
            second = awaited(client, f"{QUERY}&most=1&after={first['after']}")
            assert groups(first) + groups(second) == groups(page)
            assert second["after"] == 0
            assert awaited(client, f"{QUERY}&after=99")["groups"] == []

    def test_the_pages_say_that_the_collection_has_changed(self, stored, pictures):
        with client_of(stored.path) as client:
            assert len(groups(awaited(client, QUERY))) == 2
            stored.remove([str(pictures / "copy.jpg")])
            page = awaited(client, QUERY)
            assert (len(groups(page)), page["current"]) == (1, False)
            assert awaited(client, f"{QUERY}&anew=true")["current"]

    def test_what_cannot_be_learnt_is_told(self, filled):
        with client_of(filled.path) as client:
            for _ in range(2):  # not once for all
                answer = client.get("/api/v1/duplicates")
                while answer.status_code == 200:
                    answer = client.get("/api/v1/duplicates")
                assert answer.status_code == 409
                assert "too few" in answer.json()["detail"]


class TestDeciding:
    def test_it_needs_to_be_allowed(self, stored, pictures):
        ids = [1, 2]
        with client_of(stored.path) as client:
            for path, body in {
                "ignore": {"ids": ids},
                "unignore": {"ids": ids},
                "move": {"keep": 1, "move": [2]},
            }.items():
                assert client.post(f"/api/v1/duplicates/{path}", json=body).status_code == 403
            assert client.post("/api/v1/duplicates/undo", json={"number": 1}).status_code == 400
            assert got(client.get("/api/v1/activity"))["may"] == []
        assert len(list(pictures.iterdir())) == 38
        with pytest.raises(ValueError, match="without --allow-changes"):
            ServerSettings(move_to="away")

    def test_a_judged_pair_is_none(self, deciding, stored):
        page = awaited(deciding, QUERY)
        near = next(group["members"] for group in page["groups"] if "small" in str(group))
        body = {"ids": [member["id"] for member in near]}
        assert got(deciding.post("/api/v1/duplicates/ignore", json=body))["done"] == 1
        assert len(groups(awaited(deciding, QUERY))) == 1
        assert len(stored.curation.ignored()) == 1
        assert got(deciding.post("/api/v1/duplicates/unignore", json=body))["done"] == 1
        assert len(groups(awaited(deciding, QUERY))) == 2
        body = {"ids": [body["ids"][0], 10**9]}
        assert deciding.post("/api/v1/duplicates/ignore", json=body).status_code == 404

    def test_what_is_moved_comes_back(self, deciding, stored, pictures, tmp_path):
        (group,) = (g for g in awaited(deciding, QUERY)["groups"] if "copy.jpg" in str(g))
        kept, other = group["members"]
        content = Path(other["path"]).read_bytes()
        body = {"keep": kept["id"], "move": [other["id"]]}
        change = got(deciding.post("/api/v1/duplicates/move", json=body))
        assert (change["done"], change["left"]) == (1, [])
        assert not Path(other["path"]).exists()
        assert Path(kept["path"]).exists()
        assert [str(path) for path in manifests(tmp_path / "away")] == [change["manifest"]]
        assert len(groups(awaited(deciding, QUERY))) == 1
        body = {"number": change["number"]}
        assert got(deciding.post("/api/v1/duplicates/undo", json=body))["done"] == 1
        assert Path(other["path"]).read_bytes() == content
        assert len(groups(awaited(deciding, f"{QUERY}&anew=true"))) == 2
        assert len(list(pictures.iterdir())) == 38

    def test_a_file_that_changed_is_left_alone(self, deciding):
        (group,) = (g for g in awaited(deciding, QUERY)["groups"] if "copy.jpg" in str(g))
        kept, other = group["members"]
        Path(other["path"]).write_bytes(b"something else")
        body = {"keep": kept["id"], "move": [other["id"]]}
        change = got(deciding.post("/api/v1/duplicates/move", json=body))
        assert (change["number"], change["done"]) == (0, 0)
        assert change["left"][0]["path"] == other["path"]
        assert Path(other["path"]).read_bytes() == b"something else"

    def test_pages_of_other_sites_cannot_decide(self, deciding, pictures):
        awaited(deciding, QUERY)
        body = {"keep": 1, "move": [2]}
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = deciding.post("/api/v1/duplicates/move", json=body, headers=headers)
            assert answer.status_code == 403
        assert len(list(pictures.iterdir())) == 38

    def test_while_another_process_writes_it_is_busy(self, deciding, stored):
        with stored._directory.writing():
            answer = deciding.post("/api/v1/duplicates/ignore", json={"ids": [1, 2]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_outliers_are_those_of_the_command(stored):
    report = stored.curation.outliers(3, 5)
    with client_of(stored.path) as client:
        page = awaited(client, "/api/v1/outliers?k=3&most=5")
    assert [(each["path"], each["distance"]) for each in page["outliers"]] == [
        (each.path, each.distance) for each in report.outliers
    ]
    assert (page["median"], page["beyond"]) == (report.median, report.beyond)


def test_the_page_of_a_map_has_its_pictures_from_the_server(stored):
    with client_of(stored.path) as client:
        assert client.get("/api/v1/map/page?method=linear").status_code == 409
        awaited(client, "/api/v1/map?method=linear")
        answer = client.get("/api/v1/map/page?method=linear")
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers["content-security-policy"]
        assert "script-src 'sha256-" in policy
        assert "file:" not in policy
        assert 'id="data-ids"' in answer.text
        assert '"served": true' in answer.text


def test_labelled_images_are_evaluated(stored, crops, tmp_path):
    for number, path in enumerate(crops):
        folder = tmp_path / "labelled" / Path(path).name.split("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / f"{number}.jpg")
    with client_of(stored.path) as client:
        assert client.get("/api/v1/evaluation").status_code == 403
    with client_of(stored.path, labelled=str(tmp_path / "labelled")) as client:
        page = awaited(client, "/api/v1/evaluation")
    expected = stored.evaluate(tmp_path / "labelled")
    assert page["measures"][0]["map"] == expected.embeddings.map.value
    assert {row["query"]["path"] for row in page["rows"]} == {
        each.query for each in expected.retrieved
    }


def test_what_runs_beside_is_told(stored):
    with client_of(stored.path) as client:
        assert got(client.get("/api/v1/activity")) == {
            "images": 38,
            "writer": "",
            "training": None,
            "may": [],
        }
        with stored._directory.writing():
            assert f"process {os.getpid()} on" in got(client.get("/api/v1/activity"))["writer"]
        lock = stored.path / "lock"
        holder = {"pid": 999_999_999, "host": socket.gethostname(), "since": ""}
        lock.write_text(json.dumps(holder))
        assert not got(client.get("/api/v1/activity"))["writer"]  # it was killed
        lock.unlink()
        os.mkfifo(lock)
        assert not got(client.get("/api/v1/activity"))["writer"]


class TestWork:
    def test_one_at_a_time_and_few_wait(self):
        work, gate = Work[int](threading.Lock()), threading.Event()
        running = []

        def compute(note):
            running.append(1)
            note("stage", 3, 7)
            gate.wait(20)
            running.pop()
            return 5

        for number in range(20):
            assert isinstance(work.get(number, 0, compute), Pending)
        time.sleep(0.2)
        assert len(running) == 1
        assert threading.active_count() < 20
        assert work.get(0, 0, compute) == Pending("stage", 3, 7)
        gate.set()
        while isinstance(found := work.get(0, 1, compute), Pending):
            time.sleep(0.01)
        assert found == Done(5, is_current=False)

    def test_old_results_make_room(self):
        work, made = Work[int](threading.Lock()), []

        def compute(_):
            made.append(1)
            return 1

        for asked in [*range(9), 8, 8, 0]:
            while isinstance(work.get(asked, 0, compute), Pending):
                time.sleep(0.01)
        assert len(made) == 10  # 0 was let go, 8 was not


def test_a_socket_is_its_owners_and_outlives_no_server(filled, tmp_path):
    path = tmp_path / "imgsim.sock"
    at = "--unix-socket", str(path), "--token", KEY
    command = [sys.executable, "-m", "imgsim", "-c", str(filled.path), "serve", *at]
    with served(filled.path, *at) as killed:
        assert (killed.base, killed.token) == ("http://localhost", KEY)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert "choose another --unix-socket" in other.stderr
    with served(filled.path, *at) as server:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(path))
            asking.sendall(b"GET /api/v1/health HTTP/1.0\r\nHost: proxy.example\r\n\r\n")
            assert b'{"status": "ok"}' in asking.makefile("rb").read()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(60)
    assert not path.exists()
    path.write_text("a file of the user")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert path.read_text() == "a file of the user"


def test_a_server_that_is_killed_while_it_moves_loses_nothing(stored, pictures, tmp_path):
    """What it was at is in the manifest, and is undone."""
    content = {path.name: path.read_bytes() for path in pictures.iterdir()}
    path, away = tmp_path / "imgsim.sock", tmp_path / "away"
    ids = [image.id for image in stored.images()]
    body = json.dumps({"keep": ids[0], "move": ids[1:]}).encode()
    may = "--allow-changes", "--move-to", str(away)
    at = "--unix-socket", str(path), "--token", KEY
    with served(stored.path, *at, *may), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))
        head = "POST /api/v1/duplicates/move HTTP/1.0\r\nHost: localhost\r\n"
        head += f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        asking.sendall(head.encode() + body)
        while len(list(away.rglob("*.jpg")) if away.exists() else []) < 5:
            time.sleep(0.001)  # then it is killed
    (manifest,) = manifests(away)
    with Collection.open(stored.path) as opened:
        opened.curation.restore(manifest)
        assert len(list(opened.images())) == 38
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == content
