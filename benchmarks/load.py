"""What the server takes for a search, for many clients together, and for the grid of images."""

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from browser import Tab, chromium
from numpy.typing import NDArray
from PIL import Image
from serving import Server

from imgsim import Collection
from imgsim.images.variants import as_jpeg

K = 24
SHOWN = """
(() => {
  const top = (image) => image.getBoundingClientRect().top;
  const all = [...document.querySelectorAll(".card img")];
  const seen = all.filter((image) => top(image) < innerHeight);
  return seen.length > 6 && seen.every((image) => image.complete && image.naturalWidth);
})()
"""  # whether all the pictures in sight are there
PAINTED = """
[performance.getEntriesByName("first-contentful-paint")[0].startTime,
 performance.getEntriesByType("resource").find((e) => e.name.includes("/images?")).responseEnd,
 performance.now()]
"""


class Client:
    """A client that keeps its connection."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self._headers = {"authorization": f"Bearer {server.token}"}

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Return the status of an answer, and what it says."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def told(self, method: str, path: str, body: object = None) -> bytes:
        """Return what an answer says, which must be no failure."""
        status, content = self.ask(method, path, body)
        if status != 200:
            raise SystemExit(f"{path}: {status} {content!r}")
        return content


def milliseconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def searches(
    server: Server, path: Path, queries: NDArray[np.float32], repeats: int
) -> dict[str, list[float]]:
    """Return the milliseconds of each kind of search, in turns.

    Answers of the server must be those of the searcher, to the bit.
    """
    client = Client(server)
    with Collection.open(path) as collection, collection.searcher() as searcher:
        numbers = iter(
            np.random.default_rng(2).integers(1, collection.info().images, 10**6).tolist()
        )

        def post(like: object) -> list[tuple[int, float]]:
            content = client.told("POST", "/api/v1/search", {"like": [like], "k": K})
            return [(m["image"]["id"], m["distance"]) for m in json.loads(content)["matches"]]

        times: dict[str, list[float]] = {}
        for turn in range(-3, repeats):
            row = queries[turn % len(queries)][np.newaxis]
            number = next(numbers)
            given = {"embedding": row[0].tolist()}
            work: dict[str, Callable[[], object]] = {
                "searcher, embedding": partial(searcher.search_embeddings, row, K),
                "server, embedding": partial(post, given),
                "searcher, id": partial(searcher.search_ids, [number], K),
                "server, id": partial(post, {"id": number}),
            }
            found = searcher.search_embeddings(row, K)
            pairs = list(zip(found.ids[0].tolist(), found.distances[0].tolist(), strict=True))
            if post(given) != pairs:
                raise SystemExit("the server answers something else than the searcher")
            for name, each in work.items():
                taken = milliseconds(each)
                if turn >= 0:
                    times.setdefault(name, []).append(taken)
    return times


def together(
    server: Server, queries: NDArray[np.float32], clients: int, each: int
) -> tuple[list[float], int, float]:
    """Search from many clients, each ``each`` times.

    Return the milliseconds of each, how often they had to come again, and the seconds of all.
    """
    again = count()

    def one(number: int) -> list[float]:
        client, times = Client(server), []
        for turn in range(each):
            row = queries[(number * each + turn) % len(queries)].tolist()
            body = {"like": [{"embedding": row}], "k": K}
            began = time.perf_counter()
            while client.ask("POST", "/api/v1/search", body)[0] == 503:
                next(again)
                time.sleep(1)
            times.append(1e3 * (time.perf_counter() - began))
        return times

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [taken for some in pool.map(one, range(clients)) for taken in some]
    return times, next(again), time.perf_counter() - began


def pages(server: Server, images: int, repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of pages of the list of images, and of a picture that is kept."""
    client = Client(server)
    times = {}
    for order in ("id", "path", "newest", "largest", "pixels"):
        path = f"/api/v1/images?most=120&order={order}"
        times[f"first page, {order}"] = _timed(client, path, repeats)
    times["page in the middle, id"] = _timed(
        client, f"/api/v1/images?most=120&after={images // 2}:{images // 2}", repeats
    )
    times["picture"] = _timed(client, "/api/v1/images/1/picture", repeats)
    return times


def _timed(client: Client, path: str, repeats: int) -> list[float]:
    return [milliseconds(lambda: client.told("GET", path)) for _ in range(repeats)]


def painted(server: Server, repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds until the grid is painted in Chromium, with an empty cache."""
    names = "first paint", "first page of images", "all pictures in sight"
    runs = []
    with chromium() as tab:
        for _ in range(repeats):
            tab.call("Network.clearBrowserCache")
            tab.call("Page.navigate", url="about:blank")
            tab.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/?token={server.token}")
            _wait(tab)
            runs.append(tab.run(PAINTED))
        if tab.errors:
            raise SystemExit(str(tab.errors))
    return dict(zip(names, map(list, zip(*runs, strict=True)), strict=True))


def _wait(tab: Tab) -> None:
    until = time.monotonic() + 120
    while not tab.run(SHOWN):
        if time.monotonic() > until:
            raise SystemExit(f"the grid is not shown: {tab.errors}")
        time.sleep(0.005)


def keep_pictures(collection: Path, image: str, images: int) -> None:
    """Keep a small picture for the first images, whose files do not exist."""
    folder = collection / "thumbnails"
    folder.mkdir(exist_ok=True)
    with Image.open(image) as opened:
        opened.thumbnail((256, 256))
        content = as_jpeg(opened.convert("RGB"), 82)
    for number in range(images):
        (folder / f"{number.to_bytes(32).hex()}-small.jpg").write_bytes(content)
