"""A hostile client of the server, part by part."""

import asyncio
import json
import os
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from serving import Answer, Server, parsed

from imgsim.server.openapi import document

SEARCH = json.dumps({"like": [{"id": 1}], "k": 5}).encode()
API = "/api/v1"
MANY = 8  # requests at once, where nothing else is said


@dataclass
class Tried:
    """What a part of the attack has had for answers, and what was wrong with them."""

    statuses: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, what: object, answer: Answer, *expected: int) -> None:
        """Count an answer. Without ``expected``, whatever is no failure of the server is right."""
        status = answer.status
        self.statuses[status] = self.statuses.get(status, 0) + 1
        is_right = status in expected if expected else 200 <= status < 500
        if status == 503:
            is_right = "retry-after" in answer.headers
        if not is_right:
            self.wrong.append(f"{str(what)[:200]}: {status} {answer.body[:200]!r}")


async def at_once(work: Iterator[Awaitable[None]], many: int = MANY) -> None:
    """Do all of the work, so many pieces at a time."""

    async def one_after_another() -> None:
        for each in work:
            await each

    await asyncio.gather(*(one_after_another() for _ in range(many)))


class Canary:
    """Files that lie beside a collection, and that nobody may read."""

    MARK = b"what no client may see"

    def __init__(self, folder: Path) -> None:
        self._files = [folder / name for name in ("secret.txt", "secret.jpg")]
        for path in self._files:
            path.write_bytes(self.MARK)
            os.utime(path, (0, path.stat().st_mtime))  # reading sets the first, if it is older

    @property
    def paths(self) -> list[str]:
        """Return the paths of the files."""
        return [str(path) for path in self._files]

    def was_read(self) -> bool:
        """Say whether one of the files was read, where the file system notes that."""
        return any(path.stat().st_atime for path in self._files)


def evil(canary: Canary) -> list[bytes]:
    """Return what no parameter should be, percent-encoded as far as a request needs it."""
    up = "../" * 12
    plain = [
        *canary.paths,
        *(f"file://{path}" for path in canary.paths),
        *(up + path.lstrip("/") for path in canary.paths),
        *("-1", "0", "1e9", "nan", "inf", "9" * 400, "", " ", "' OR 1=1 --", "{}", "[]", "null"),
        *("\0", "a\0b", "\r\nx-evil: 1", "\u202e", "<script>alert(1)</script>", "x" * 8_000),
        *(
            "id:1",
            "00",
            "ff:1",
            "1:-1",
            "::",
            "~",
            "%s%n",
            "${7*7}",
            "//evil.example/",
            "\\\\host\\x",
        ),
    ]
    encoded = [quote(each, safe="").encode() for each in plain]
    raw = [up.encode() + path.lstrip("/").encode() for path in canary.paths]
    twice = [quote(each, safe="").encode() for each in (quote(up, safe="") + "etc/passwd",)]
    dots = [b"%2e%2e/" * 12 + b"etc/passwd", b"..%5c" * 8 + b"x", b"....//" * 8 + b"etc/passwd"]
    return [*encoded, *raw, *twice, *dots, b"%ff%fe", b"%ed%a0%80", b"%zz", b"%"]


async def traversal(server: Server, canary: Canary, tried: Tried) -> None:
    """Put evil values in every place of an address and of a body."""
    values = evil(canary)

    async def get(target: bytes) -> None:
        answer = await server.ask("GET", target)
        tried.note(target, answer)
        if Canary.MARK in answer.body or b"root:x:0" in answer.body:
            tried.wrong.append(f"{target!r} shows a file")
        place = answer.headers.get("location", "/")
        if not place.startswith((f"http://127.0.0.1:{server.port}/", "/")) or place[1:2] == "/":
            tried.wrong.append(f"{target!r} leads to {place}")

    await at_once(get(target) for value in values for target in targets(value))

    async def post(body: object) -> None:
        answer = await server.ask("POST", f"{API}/search", json.dumps(body).encode())
        tried.note(body, answer)

    texts = [value.decode("latin1") for value in values] + canary.paths
    bodies = ({"like": [{name: text}]} for text in texts for name in ("path", "id", "embedding"))
    await at_once(post(body) for body in bodies)
    odd: list[object] = [
        None,
        [],
        1,
        "x",
        {"like": []},
        {"like": [{}]},
        {"like": [{"id": 1}] * 101},
    ]
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    await at_once(post(body) for body in [*odd, {"like": deep}, {"like": [{"embedding": [1e39]}]}])
    if canary.was_read():
        tried.wrong.append("a file beside the collection was read")


def targets(value: bytes) -> Iterator[bytes]:
    """Yield an address for each place of one where a value can stand."""
    for path in ("/", "/static/", "/image/", "/search/", f"{API}/", f"{API}/images/"):
        yield path.encode() + value
    yield b"/?token=" + value
    for path, operations in json.loads(document())["paths"].items():
        if "{id}" in path:
            yield path.encode().replace(b"{id}", value)
        for parameter in operations.get("get", {}).get("parameters", []):
            if parameter["in"] == "query":
                place = path.replace("{id}", "1")
                yield f"{place}?{parameter['name']}=".encode() + value


async def uploads(server: Server, files: list[Path], tried: Tried) -> None:
    """Send hostile files."""

    async def send(number: int, path: Path) -> None:
        target = f"{API}/embed" if number % 2 else f"{API}/search/image?k=3"
        tried.note(path.name, await server.ask("POST", target, path.read_bytes()))

    await at_once(send(*each) for each in enumerate(files))


async def bombs(server: Server, count: int, tried: Tried) -> None:
    """Send pictures of few bytes and many pixels."""
    kinds = list(bomb_files())

    async def send(number: int) -> None:
        name, content = kinds[number % len(kinds)]
        expected = (200, 422) if name.startswith("SVG") else (422,)  # drawn as small as is needed
        tried.note(name, await server.ask("POST", f"{API}/embed", content), *expected)

    await at_once(send(number) for number in range(count))


def bomb_files() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of pictures that claim, or have, too many pixels."""
    rows = zlib.compress(bytes(30_000 * 3_751), 9)  # 30,000 rows of 30,000 pixels of a bit
    whole = _png(30_000, 30_000, 1, 0, (b"IDAT", rows))
    yield "PNG of 900 megapixels", whole
    yield "PNG of 2^62 pixels", _png((1 << 31) - 1, (1 << 31) - 1, 16, 6, (b"IDAT", rows[:100]))
    text = b"Comment\0\0" + zlib.compress(bytes(1 << 26), 9)
    yield "PNG with a text of 64 MiB", _png(60_000, 60_000, 8, 2, (b"zTXt", text), (b"IDAT", rows))
    size = struct.pack("<HH", 65_535, 65_535)
    yield (
        "GIF of 4 gigapixels",
        b"GIF89a"
        + size
        + b"\x80\0\0"
        + b"\0\0\0\xff\xff\xff"
        + b",\0\0\0\0"
        + size
        + b"\0\x02\x02D\x01\0;",
    )
    header = struct.pack("<IiiHHIIiiII", 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "BMP of 2^60 pixels", b"BM" + struct.pack("<IHHI", 1 << 31, 0, 0, 54) + header
    yield (
        "SVG of 10^12 pixels",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="1000000" height="1000000"/>',
    )
    frame = (
        b"\xff\xc0\0\x11\x08"
        + struct.pack(">HH", 65_535, 65_535)
        + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    )
    yield (
        "JPEG of 4 gigapixels",
        b"\xff\xd8" + frame + b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0?\0" + bytes(64),
    )


def _png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        check = zlib.crc32(name + content)
        parts.append(struct.pack(">I", len(content)) + name + content + struct.pack(">I", check))
    return b"".join(parts)


async def strangers(server: Server, tried: Tried) -> None:
    """Ask as a page of another site, by another name, without the token."""
    own = f"127.0.0.1:{server.port}"
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "127.0.0.1:1",
        f"{own}.evil.example",
    ):
        tried.note(host, await server.ask("GET", "/", host=host), 421)
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{own}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": f"http://localhost:{server.port}"},
    ):
        tried.note(headers, await server.ask("POST", f"{API}/search", SEARCH, **headers), 403)
    for method, target in (("GET", "/"), ("GET", f"{API}/images/1"), ("POST", f"{API}/embed")):
        tried.note(target, await server.ask(method, target, authorization=""), 401)
    for content in (
        b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01" + bytes(99),
        b"G" * 99_999,
    ):
        answer = await server.send(content)
        tried.note(content[:20], answer, 0, 400, 421)
    tried.note("", await server.ask("GET", "/" + "x" * 90_000), 0, 400, 404, 414, 431)


async def parallel(server: Server, count: int, tried: Tried) -> None:
    """Ask from so many connections together."""

    async def one(number: int) -> None:
        kind = number % 3
        if kind == 0:
            answer = await server.ask("POST", f"{API}/search", SEARCH)
        else:
            answer = await server.ask("GET", f"{API}/images/1" + ("/picture" if kind == 1 else ""))
        tried.note("in parallel", answer, 200)

    await asyncio.gather(*(one(number) for number in range(count)))


@dataclass(frozen=True)
class Load:
    """How many connections each kind of bad body has, and for how many seconds."""

    slow: int
    large: int
    seconds: float


async def bodies(server: Server, load: Load, tried: Tried) -> None:
    """Send bodies slowly, without an end, and large ones that stop before it; ask beside them.

    Others that hold many numbers are sent before.
    """
    numbers = b"[" + b"1," * 16_383 + b"1]"
    example = b'{"embedding":' + numbers + b"}"
    many = b'{"like":[' + b",".join([example] * 100) + b"]}"

    async def count() -> None:
        tried.note("many numbers", await server.ask("POST", f"{API}/search", many), 400)

    await at_once(count() for _ in range(load.large))
    head = server.head("POST", f"{API}/embed".encode(), content_length="1000000")
    chunked = server.head("POST", f"{API}/embed".encode(), transfer_encoding="chunked")
    large = server.head("POST", f"{API}/embed".encode(), content_length=str(60 << 20))
    block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    flows: list[tuple[bytes, Callable[[], AsyncIterator[bytes]], int]] = [
        (head, lambda: _drops(b"x", load.seconds), load.slow),
        (head[:-2], lambda: _drops(b"x-more: 1\r\n", load.seconds), load.slow),
        (chunked, lambda: _endless(block), 2),
        (large, lambda: _stalled(bytes(1 << 20), 60, load.seconds), load.large),
    ]
    sending = [
        asyncio.create_task(_flow(server, start, flow()))
        for start, flow, many in flows
        for _ in range(many)
    ]
    fair = asyncio.create_task(_fair(server, load.seconds, tried))
    for task in sending:
        tried.note("a bad body", await task, 0, 400, 408, 413, 422)
    await fair


async def _flow(server: Server, head: bytes, flow: AsyncIterator[bytes]) -> Answer:
    """Send what flows until the server has answered; 0 for none at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    try:
        async for part in flow:
            writer.write(part)
            await writer.drain()
            if reader.at_eof():
                break
        writer.write_eof()
    except ConnectionError:
        pass
    try:
        async with asyncio.timeout(2):
            return parsed(await reader.read())
    except (ConnectionError, TimeoutError):
        return Answer(0)
    finally:
        writer.close()


async def _drops(drop: bytes, seconds: float) -> AsyncIterator[bytes]:
    for _ in range(int(seconds * 2)):
        yield drop
        await asyncio.sleep(0.5)


async def _endless(block: bytes) -> AsyncIterator[bytes]:
    for _ in range(4_096):  # 256 MiB are four times what is taken
        yield block


async def _stalled(block: bytes, many: int, seconds: float) -> AsyncIterator[bytes]:
    for _ in range(many - 1):
        yield block
    for _ in range(int(seconds * 2)):
        await asyncio.sleep(0.5)
        yield b""


async def _fair(server: Server, seconds: float, tried: Tried) -> None:
    """Ask as others do, who must be answered all the while, or told when to come again."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        tried.note("beside bad bodies", await server.ask("POST", f"{API}/search", SEARCH), 200)
        await asyncio.sleep(0.25)
