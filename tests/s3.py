"""A server of S3 on this machine, and a way to it that can be cut."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import boto3
from moto.server import ThreadedMotoServer

for _name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    os.environ.setdefault(_name, "anybody")


@dataclass
class Server:
    """A bucket behind a relay; ``left`` is how many bytes it still passes on, or None for all."""

    port: int
    client: object
    left: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, name: str) -> str:
        """Return the address of a folder in the bucket."""
        return (
            f"s3://photos/{name}?scheme=http&endpoint_override=127.0.0.1:{self.port}"
            "&region=us-east-1"
        )

    def passes(self, count: int) -> bool:
        """Say whether so many bytes more are passed on."""
        with self._lock:
            if self.left is None:
                return True
            self.left -= count
            return self.left >= 0


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server with an empty bucket."""
    behind = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    behind.start()
    host, port = behind.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="photos")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(listening.getsockname()[1], client)
        threading.Thread(target=_relay, args=(listening, (host, port), server), daemon=True).start()
        yield server
    behind.stop()


def _relay(listening: socket.socket, behind: tuple[str, int], server: Server) -> None:
    with suppress(OSError):  # it was closed
        while True:
            asking, _ = listening.accept()
            threading.Thread(target=_connect, args=(asking, behind, server), daemon=True).start()


def _connect(asking: socket.socket, behind: tuple[str, int], server: Server) -> None:
    with asking, socket.create_connection(behind) as answering:
        back = threading.Thread(target=_pass_on, args=(answering, asking, server), daemon=True)
        back.start()
        _pass_on(asking, answering, server)
        back.join()


def _pass_on(source: socket.socket, target: socket.socket, server: Server) -> None:
    with suppress(OSError):
        while (block := source.recv(1 << 14)) and server.passes(len(block)):
            target.sendall(block)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
