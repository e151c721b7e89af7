"""`imgsim serve` in a process of its own, for tests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request


@dataclass(frozen=True)
class Server:
    """A server that listens at ``base`` and needs ``token``."""

    base: str
    token: str
    process: subprocess.Popen[str]

    def request(self, path: str, body: bytes | None = None) -> Request:
        """Return a request of a script."""
        return Request(self.base + path, body, {"authorization": f"Bearer {self.token}"})


@contextmanager
def served(path: Path, *options: str) -> Iterator[Server]:
    """Serve a collection until the block ends."""
    command = [sys.executable, "-m", "imgsim", "-c", str(path), "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            base, _, token = process.stderr.readline().split()[-1].partition("/?token=")
            yield Server(base, token, process)
        finally:
            process.kill()
