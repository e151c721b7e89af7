"""The web application and its REST service, over a collection of real photographs."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote_from_bytes

import anyio
import pyarrow as pa
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from imgsim import Collection
from imgsim.directory import Directory
from imgsim.server import app as app_module
from imgsim.server.app import create_app
from imgsim.server.guard import Guard
from imgsim.server.openapi import document
from imgsim.server.problems import Refused
from imgsim.server.run import serve
from imgsim.server.settings import ServerSettings
from imgsim.server.thumbnails import Thumbnails
from tests.conftest import file_limit, interruptible

KEY = "0123456789abcdef"
STATIC = Path(app_module.__file__).parent / "static"


def client_of(path, base="http://127.0.0.1:8765", **settings):
    chosen = ServerSettings(token=KEY, **settings)
    client = TestClient(create_app(Directory.open(path, create=False), chosen), base)
    client.headers["authorization"] = f"Bearer {KEY}"
    return client


@pytest.fixture
def client(filled):
    with client_of(filled.path) as client:
        yield client


def scope_of(method):
    headers = [(b"host", b"localhost:8765"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": method, "path": "/", "query_string": b""}
    return scope | {"headers": headers, "scheme": "http", "server": ("localhost", 8765)}


def got(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def pairs(answer):
    return [(m["rank"], m["image"]["id"], m["distance"]) for m in got(answer)["matches"]]


class TestStrangers:
    def test_nobody_is_answered_without_the_token(self, client):
        del client.headers["authorization"]
        for path in ("/", "/search", "/static/base.css", "/api/v1/images", "/api/v1/metrics"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
        assert client.get(f"/?token={KEY[:-1]}x").status_code == 401
        assert client.get("/api/v1/health").json() == {"status": "ok"}

    def test_the_token_of_the_address_becomes_a_cookie(self, client):
        del client.headers["authorization"]
        answer = client.get(f"/search?like=1&token={KEY}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/search?like=1")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=strict" in answer.headers["set-cookie"]
        assert client.get("/").status_code == 200  # with the cookie
        client.cookies.clear()
        assert client.get("/", headers={"cookie": "imgsim_8765=\xe9;;=".encode("latin1")})

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1:1", "127.0.0.1", "localhost.evil.example:8765", ""]
    )
    def test_a_name_of_another_site_leads_nowhere(self, client, host):
        assert client.get("/", headers={"host": host}).status_code == 421

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "https://127.0.0.1:8765"},
            {"origin": "http://127.0.0.1:9999"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
    )
    def test_pages_of_other_sites_cannot_post(self, client, headers):
        body = {"like": [{"id": 1}]}
        assert client.post("/api/v1/search", json=body, headers=headers).status_code == 403
        own = {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
        assert client.post("/api/v1/search", json=body, headers=own).status_code == 200

    def test_other_machines_need_a_token_of_the_users(self):
        with pytest.raises(ValueError, match="reached by other machines"):
            ServerSettings("0.0.0.0")
        with pytest.raises(ValueError, match="at least 16"):
            ServerSettings("0.0.0.0", token="short")
        assert ServerSettings().key != ServerSettings().key
        wide = ServerSettings("0.0.0.0", token=KEY)
        assert wide.is_own("192.168.0.7:8765")
        assert wide.is_own("[fe80::1]:8765")
        assert not wide.is_own("evil.example:8765")
        assert not ServerSettings().is_own("192.168.0.7:8765")


class TestSearch:
    def test_answers_are_those_of_the_searcher_to_the_bit(self, client, filled, crops):
        with filled.searcher() as searcher:
            expected = [
                (match.rank, match.id, match.distance)
                for match in searcher.search(crops[3], 7)[0].matches
            ]
            row = searcher.search_ids([4], 5)
        body = Path(crops[3]).read_bytes()
        assert pairs(client.post("/api/v1/search/image?k=7", content=body)) == expected
        embedding = got(client.post("/api/v1/embed", content=body))["embedding"]
        like = {"like": [{"embedding": embedding}], "k": 7}
        assert pairs(client.post("/api/v1/search", json=like)) == expected
        found = pairs(client.get("/api/v1/images/4/neighbours?k=5"))
        assert [each[1:] for each in found] == [
            *zip(row.ids[0].tolist(), row.distances[0].tolist(), strict=True)
        ]
        assert pairs(client.post("/api/v1/search", json={"like": [{"id": 4}], "k": 5})) == found

    def test_several_examples_and_unwanted_ones_move_the_query(self, client, filled):
        with filled.searcher() as searcher:
            rows = searcher.embeddings([1, 2, 9]).astype(float)
            mean = rows[:2].mean(axis=0)
            query = (mean + 0.5 * (mean - rows[2])).astype("float32")
            found = searcher.search_embeddings(query[None], None)
        expected = [
            pair
            for pair in zip(found.ids[0].tolist(), found.distances[0].tolist(), strict=True)
            if pair[0] not in {1, 2, 9}
        ]
        asked = {"like": [{"id": 1}, {"id": 2}], "unlike": [{"id": 9}], "k": 36}
        answer = pairs(client.post("/api/v1/search", json=asked))
        assert [each[1:] for each in answer] == expected
        assert [each[0] for each in answer] == [*range(1, 34)]

    def test_a_path_stands_for_the_image_that_is_stored_there(self, client, filled, tmp_path):
        path = next(iter(filled.images())).path
        found = client.post("/api/v1/search", json={"like": [{"path": path}]})
        assert pairs(found) == pairs(client.post("/api/v1/search", json={"like": [{"id": 1}]}))
        shutil.copy(path, tmp_path / "other.jpg")
        for other in (str(tmp_path / "other.jpg"), "/etc/passwd", "../../etc/passwd"):
            asked = {"like": [{"path": other}]}
            assert client.post("/api/v1/search", json=asked).status_code == 404

    def test_radius_folders_and_copies_narrow_the_answer(self, client, filled, pictures):
        (pictures / "sub").mkdir()
        first = next(iter(filled.images())).path
        shutil.copy(first, pictures / "sub" / "copy.jpg")
        filled.ingest([pictures])
        whole = pairs(client.get("/api/v1/images/1/neighbours"))
        assert whole[0][2] == 0.0
        assert pairs(client.get("/api/v1/images/1/neighbours?distinct=true"))[0][2] > 0
        near = pairs(client.get(f"/api/v1/images/1/neighbours?radius={whole[4][2]!r}"))
        assert near == whole[:5]
        under = f"under={pictures}/sub&under=/nowhere"
        assert len(pairs(client.get(f"/api/v1/images/1/neighbours?{under}"))) == 1

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'{"like": []}',
            b'{"like": [{}]}',
            b'{"like": [{"id": 1, "path": "/a"}]}',
            b'{"like": [{"id": 0}]}',
            b'{"like": [{"id": 99999999999999999999}]}',
            b'{"like": [{"embedding": [1, 2]}]}',
            b'{"like": [{"embedding": [NaN]}]}',
            b'{"like": [{"id": 1}], "k": 0}',
            b'{"like": [{"id": 1}], "radius": -1}',
            b'{"like": [{"id": 1}], "under": [""]}',
            b'{"like": [{"id": 1}], "surprise": 1}',
            b"\xff\xfe",
        ],
    )
    def test_what_makes_no_sense_is_a_problem(self, client, body):
        answer = client.post("/api/v1/search", content=body)
        assert answer.status_code == 400
        assert answer.json()["detail"]

    def test_images_that_are_none(self, client, crops):
        cut = Path(crops[0]).read_bytes()[:300]
        for body in (b"", b"hello", cut, b"<svg onload='alert(1)'/>", os.urandom(3_000)):
            answer = client.post("/api/v1/search/image", content=body)
            assert answer.status_code == 422, answer.text
        with io.BytesIO() as file:
            Image.new("1", (20_000, 20_000)).save(file, "PNG")
            assert client.post("/api/v1/embed", content=file.getvalue()).status_code == 422


class TestImages:
    @pytest.mark.parametrize("order", ["id", "path", "newest", "largest", "pixels"])
    def test_pages_visit_every_image_once_in_order(self, client, filled, order):
        found, after = [], ""
        while True:
            query = {"order": order, "most": 7, "after": after}
            page = got(client.get("/api/v1/images", params=query))
            found += page["images"]
            after = page["after"]
            if not after:
                break
        keys = {
            "id": lambda image: image["id"],
            "path": lambda image: os.fsencode(image["path"]),
            "newest": lambda image: -os.stat(image["path"]).st_mtime_ns,
            "largest": lambda image: -image["bytes"],
            "pixels": lambda image: -image["width"] * image["height"],
        }
        assert found == sorted(found, key=lambda image: (keys[order](image), image["id"]))
        assert {image["id"] for image in found} == {image.id for image in filled.images()}

    @pytest.mark.parametrize(
        "query", ["after=x", "after=1:x", "order=path&after=xy:1", "order=random", "most=1001"]
    )
    def test_pages_that_make_no_sense(self, client, query):
        assert client.get(f"/api/v1/images?{query}").status_code == 400

    def test_folders_and_suffixes(self, client, filled, pictures):
        for number, name in enumerate(["a/b/1.PNG", "a/2.png", "z\udcff/3.png", "a 0/4.png"]):
            path = pictures / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
        filled.ingest([pictures])

        def folders(place):
            return got(client.get("/api/v1/folders", params={"under": str(place)}))["folders"]

        assert folders(pictures) == ["a", "a 0", "z\udcff"]
        assert folders(pictures / "a") == ["b"]
        assert folders("/nowhere") == []
        odd = quote_from_bytes(os.fsencode(pictures / "z\udcff"))
        page = got(client.get(f"/api/v1/images?under={odd}"))
        assert [Path(image["path"]).name for image in page["images"]] == ["3.png"]
        assert got(client.get(f"/api/v1/folders?under={odd}"))["folders"] == []
        asked = {"suffix": ".png", "under": str(pictures / "a")}
        page = got(client.get("/api/v1/images", params=asked))
        assert [Path(image["path"]).name for image in page["images"]] == ["2.png", "1.PNG"]
        for least, count in ((0, 40), (20, 40), (21, 36), (97, 0)):
            page = got(client.get(f"/api/v1/images?least_side={least}"))
            assert len(page["images"]) == count

    def test_unknown_ids(self, client):
        for number in (0, 37, 1 << 62, 1 << 63, 10**30):
            for end in ("", "/picture", "/neighbours"):
                assert client.get(f"/api/v1/images/{number}{end}").status_code == 404

    def test_pictures(self, client, filled, pictures):
        answer = client.get("/api/v1/images/1/picture")
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("JPEG", (96, 96))  # it is not enlarged
        large = Image.effect_noise((2_000, 900), 64).convert("RGB")
        large.save(pictures / "large.png")
        filled.ingest([pictures])
        for size, shape in {"small": (256, 115), "large": (1_600, 720)}.items():
            found = client.get(f"/api/v1/images/37/picture?size={size}")
            assert Image.open(io.BytesIO(found.content)).size == shape
        etag = {"if-none-match": answer.headers["etag"]}
        assert client.get("/api/v1/images/1/picture", headers=etag).status_code == 304
        assert client.get("/api/v1/images/1/picture?size=huge").status_code == 400
        first, second, *_ = filled.images()
        Path(second.path).write_bytes(Path(first.path).read_bytes())
        assert client.get("/api/v1/images/2/picture").status_code == 422
        Path(second.path).unlink()
        assert client.get("/api/v1/images/2/picture").status_code == 410
        Path(first.path).unlink()  # it was made already
        assert client.get("/api/v1/images/1/picture").content == answer.content

    def test_pictures_take_a_limited_room(self, filled, tmp_path):
        (folder := tmp_path / "kept").mkdir()
        (folder / ".0011223344556677.tmp").write_bytes(b"left by one that was killed")
        (folder / "mine.jpg").write_bytes(b"not imgsim's")
        thumbnails = Thumbnails(folder, 60_000)
        with filled._directory.catalog.snapshot() as snapshot:
            records = snapshot.records(range(1, 37))
        for record in records.values():
            assert thumbnails.get(record, "small")[:2] == b"\xff\xd8"
            kept = [path.stat().st_size for path in folder.iterdir()]
            assert sum(kept) <= 60_000 + max(kept)
        assert (folder / "mine.jpg").exists()
        assert not (folder / ".0011223344556677.tmp").exists()

    def test_on_a_full_disk_pictures_are_shown_and_not_kept(self, client, filled):
        with file_limit(10):
            answer = client.get("/api/v1/images/1/picture")
        assert not list((filled.path / "thumbnails").iterdir())
        again = client.get("/api/v1/images/1/picture")
        assert again.content == answer.content
        assert Image.open(io.BytesIO(answer.content)).getpixel((95, 95))
        assert len(list((filled.path / "thumbnails").iterdir())) == 1

    def test_neighbours_are_streamed(self, client, filled):
        expected = [
            (image.id, match.id, match.distance)
            for image in filled.neighbours(3)
            for match in image.matches
        ]
        lines = client.get("/api/v1/neighbours?k=3").text.splitlines()
        rows = map(json.loads, lines)
        assert [(r["image_id"], r["neighbour_id"], r["distance"]) for r in rows] == expected
        answer = client.get("/api/v1/neighbours?k=3&form=arrow")
        told = client.get("/api/v1/metrics").text.splitlines()
        assert {"imgsim_under_way 0", "imgsim_waiting 0"} <= {*told}
        assert 'imgsim_responses{path="/neighbours",status="200"} 2' in told
        (took,) = (each for each in told if each.startswith('imgsim_seconds{path="/neighbours"} '))
        assert 0 < float(took.split()[1]) < 60
        table = pa.ipc.open_stream(answer.content).read_all()
        columns = (table[name].to_pylist() for name in ("image_id", "neighbour_id", "distance"))
        assert [*zip(*columns, strict=True)] == expected


class TestLimits:
    def test_a_body_is_of_limited_size(self, filled):
        with client_of(filled.path, upload_bytes=1_000) as client:
            body = bytes(1_001)
            assert client.post("/api/v1/embed", content=body).status_code == 413
            streamed = client.post("/api/v1/embed", content=iter([body[:900], body[900:]]))
            assert streamed.status_code == 413  # no length was told
            for length in ("-1", "x", "9" * 5_000):
                headers = {"content-length": length}
                answer = client.post("/api/v1/embed", content=b"", headers=headers)
                assert answer.status_code in {400, 413, 422}

    def test_bodies_of_all_requests_are_of_limited_size_together(self):
        settings = ServerSettings(token=KEY, upload_bytes=1_000)
        refused = []

        async def receive():
            return {"type": "http.request", "body": bytes(900), "more_body": True}

        async def application(scope, receive, send):
            try:
                await receive()
            except Refused as error:
                refused.append(error.status)
            await anyio.sleep(0.05)

        async def ask():
            guard = Guard(application, settings)
            for _ in range(2):  # what was held for the first is free for the second
                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(guard, scope_of("POST"), receive, print)

        anyio.run(ask)
        assert refused == [503, 503]

    def test_a_body_comes_in_limited_time(self):
        settings = ServerSettings(token=KEY, upload_seconds=0.05)
        sent = []

        async def never():
            await anyio.sleep_forever()

        async def application(scope, receive, send):
            await receive()

        async def ask():
            await Guard(application, settings)(scope_of("POST"), never, sent.append)

        with pytest.raises(Refused, match="too long") as caught:
            anyio.run(ask)
        assert caught.value.status == 408

    def test_more_requests_than_may_wait_are_sent_away(self, filled, monkeypatch):
        with client_of(filled.path, waiting=1) as client:
            app = client.app
            gate, statuses = threading.Event(), []
            desk = next(
                route.endpoint.desk
                for route in app.routes
                if getattr(route, "path", "") == "/api/v1/images/{id:int}"
            )
            monkeypatch.setattr(desk, "_most", 2)

            def held(*_):
                gate.wait(20)
                raise ValueError("as asked")

            monkeypatch.setattr(desk._service, "image", held)
            ask = lambda: statuses.append(client.get("/api/v1/images/1").status_code)  # noqa: E731
            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            while desk._under_way < 2:
                threading.Event().wait(0.01)
            answer = client.get("/api/v1/images/1")
            gate.set()
            for thread in threads:
                thread.join()
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert statuses == [400, 400]


class TestChanges:
    def test_new_images_appear_without_a_restart(self, client, filled, pictures):
        assert len(pairs(client.get("/api/v1/images/1/neighbours?k=99"))) == 35
        Image.new("RGB", (40, 40), "teal").save(pictures / "new.png")
        with Collection.open(filled.path) as other:  # as another process
            other.ingest([pictures])
        assert len(pairs(client.get("/api/v1/images/1/neighbours?k=99"))) == 36
        filled.remove([str(pictures / "new.png")])
        assert len(pairs(client.get("/api/v1/images/1/neighbours?k=99"))) == 35

    def test_a_collection_without_an_encoder_says_so(self, tmp_path):
        Collection.open(tmp_path / "new.imgsim", create=True).close()
        with pytest.raises(LookupError, match="no encoder yet"), client_of(tmp_path / "new.imgsim"):
            pass


class TestPages:
    def test_pages_have_no_inline_code_and_lead_nowhere_else(self, client):
        for path in ("/", "/image/1", "/search", "/duplicates", "/outliers", "/map", "/evaluation"):
            answer = client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            text = answer.text
            assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", text)
            for address in re.findall(r'(?:src|href)="([^"]*)"', text):
                assert address.startswith("/")
                assert client.get(address).status_code == 200
        for file in STATIC.iterdir():
            content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "://" not in content
            assert "innerHTML" not in content

    def test_nothing_beside_the_pages_is_read(self, client):
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/x"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
        assert client.delete("/api/v1/images/1").status_code == 405

    def test_the_document_of_the_service_is_the_one_in_docs(self, client):
        written = Path(__file__).parents[2] / "docs" / "openapi.json"
        assert written.read_text(encoding="utf-8") == document() + "\n"
        assert client.get("/api/v1/openapi.json").json() == json.loads(document())


def test_the_command_serves_until_it_is_interrupted(filled, tmp_path):
    command = [sys.executable, "-m", "imgsim", "-c", str(filled.path), "serve", "--port", "0"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,  # noqa: PLW1509 - as elsewhere here; nothing in it takes a lock
    ) as process:
        address = process.stderr.readline().split()[-1]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        base, _, token = address.partition("/?token=")
        with urllib.request.urlopen(f"{base}/api/v1/health") as answer:
            assert json.load(answer) == {"status": "ok"}
        request = urllib.request.Request(f"{base}/api/v1/images/1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)
        request.add_header("authorization", f"Bearer {token}")
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["id"] == 1
        port = base.rpartition(":")[2]
        taken = subprocess.run([*command[:-1], port], capture_output=True, text=True, check=False)
        assert taken.returncode == 1
        assert "choose another --port" in taken.stderr
        assert taken.stderr.count("\n") == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in {0, 130}
        assert "Traceback" not in process.stderr.read()


def test_the_body_of_an_answer_does_not_wait(filled, monkeypatch):
    """A socket that waits for acknowledgements makes each answer 40 ms late."""
    accepted = []

    def accept(_, sockets):
        with socket.create_connection(sockets[0].getsockname()[:2]):
            accepted.append(sockets[0].accept()[0])

    monkeypatch.setattr(uvicorn.Server, "run", accept)
    serve(filled.path, ServerSettings(port=0, token=KEY), lambda _: None)
    with accepted[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
