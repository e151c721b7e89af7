"""`imgsim serve` in a process of its own, and a client that sends bytes as they are."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

PATIENCE = 120  # seconds until an answer counts as missing


@dataclass(frozen=True)
class Answer:
    """A status, 0 for a connection that ended without one, and the rest of the answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Server:
    """A server that listens on loopback, and needs a token; ``told`` is what it has printed."""

    port: int
    token: str
    pid: int
    told: list[str] = field(default_factory=list)

    def peak(self) -> float:
        """Return the most memory it has had so far, in MB, mapped files included."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1e3

    def head(self, method: str, target: bytes, **headers: str) -> bytes:
        """Return the head of a request; ``headers`` replace those that are usual."""
        usual = {
            "host": f"127.0.0.1:{self.port}",
            "authorization": f"Bearer {self.token}",
            "connection": "close",
        }
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in (usual | headers).items()]
        text = "".join(f"{line}\r\n" for line in lines if not line.endswith(": "))
        return method.encode() + b" " + target + b" HTTP/1.1\r\n" + text.encode("latin1") + b"\r\n"

    async def ask(
        self, method: str, target: bytes | str, body: bytes = b"", **headers: str
    ) -> Answer:
        """Return the answer to a request."""
        if method != "GET":
            headers = {"content_length": str(len(body))} | headers
        target = target.encode() if isinstance(target, str) else target
        return await self.send(self.head(method, target, **headers) + body)

    async def send(self, content: bytes) -> Answer:
        """Return the answer to bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(content)
                await writer.drain()
                return parsed(await reader.read())
        except ConnectionError:
            return await _left(reader)
        finally:
            writer.close()


async def _left(reader: asyncio.StreamReader) -> Answer:
    """Return the answer of a server that did not take the whole request."""
    try:
        return parsed(await reader.read())
    except ConnectionError:
        return Answer(0)


def parsed(content: bytes) -> Answer:
    """Return an answer from its bytes."""
    if not content.startswith(b"HTTP/1.1 "):
        return Answer(0, body=content)
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(first.split()[1]), headers, body)


@contextmanager
def served(collection: Path, *options: str) -> Iterator[Server]:
    """Serve a collection until the block ends."""
    command = [sys.executable, "-m", "imgsim", "-c", str(collection), "serve", "--port", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = process.stderr.readline().split()[-1]
            base, _, token = address.partition("/?token=")
            server = Server(int(base.rpartition(":")[2]), token, process.pid)
            Thread(target=server.told.extend, args=[process.stderr], daemon=True).start()
            yield server
        finally:
            process.kill()
