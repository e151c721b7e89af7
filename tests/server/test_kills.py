"""Kill -9 of the server while it makes pictures, and of an ingest beside it."""

import io
import random
import subprocess
import sys
import threading
import time
import urllib.error
from contextlib import suppress
from http.client import HTTPException
from urllib.request import urlopen

from PIL import Image

from imgsim import Collection
from tests.server.serving import served


def pictures_of(server, numbers):
    """Ask for pictures until the server is gone."""
    with suppress(urllib.error.URLError, HTTPException, ConnectionError):
        for number in numbers:
            urlopen(server.request(f"/api/v1/images/{number}/picture")).read()


def test_kills_lose_nothing_and_leave_nothing(filled, pictures, tmp_path):
    moments, before = random.Random(0), {image.id: image.path for image in filled.images()}
    for number in range(40):
        noise = Image.effect_noise((600, 400), 60 + number)
        noise.save(pictures / f"new-{number}.png")
    ingest = [sys.executable, "-m", "imgsim", "-c", str(filled.path), "ingest", str(pictures)]
    for _ in range(2):
        with served(filled.path) as server:
            asking = [
                threading.Thread(target=pictures_of, args=(server, list(before)[start::2]))
                for start in (0, 1)
            ]
            with subprocess.Popen(ingest, stderr=subprocess.DEVNULL) as beside:
                for thread in asking:
                    thread.start()
                time.sleep(moments.uniform(0.02, 0.2))
                server.process.kill()
                time.sleep(moments.uniform(0.5, 2.0))
                beside.kill()
            for thread in asking:
                thread.join()
    folder = filled.path / "thumbnails"
    (folder / ".0123456789abcdef.tmp").write_bytes(b"half of a picture")
    with served(filled.path) as server:
        assert not list(folder.glob(".*"))
        for path in folder.iterdir():
            with Image.open(path) as image:
                image.load()  # whole
        with Collection.open(filled.path) as collection:
            assert collection.check() == []
            stored = {image.id: image.path for image in collection.images()}
            assert stored.items() >= before.items()
            collection.ingest([pictures])
            newest = max(image.id for image in collection.images())
            assert collection.info().images == 76
        content = urlopen(server.request(f"/api/v1/images/{newest}/picture")).read()
        assert Image.open(io.BytesIO(content)).format == "JPEG"
