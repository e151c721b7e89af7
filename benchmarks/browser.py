"""A headless Chromium, driven over two pipes by its debugging protocol."""

import fcntl
import json
import os
import select
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--window-size=1280,900", "about:blank"),
)
_LOCAL = ("file:", "data:", "blob:", "about:")


class Tab:
    """A page that is open: runs scripts in it, and notes errors and requests that leave."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._received, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        (target,) = [
            each["targetId"]
            for each in self.call("Target.getTargets")["targetInfos"]
            if each["type"] == "page"
        ]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, mark: str) -> None:
        """Open a file, and wait until its script has set a mark."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        for _ in range(600):
            if self.run(f"performance.getEntriesByName({mark!r}).length"):
                return
            time.sleep(0.2)
        raise TimeoutError(f"{page}: no mark {mark}; {self.errors}")

    def run(self, script: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return the value of an expression, or of its promise."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"])[:500])
        return done["result"].get("value")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not select.select([self._reader], [], [], 120)[0]:
                raise TimeoutError("the browser does not answer")
            self._received += os.read(self._reader, 1 << 20)
        content, self._received = self._received.split(b"\0", 1)
        return dict(json.loads(content))

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}:
            self.errors.append(json.dumps(event["params"])[:400])
        elif event["method"] == "Network.requestWillBeSent":
            address = event["params"]["request"]["url"]
            if not address.startswith(_LOCAL):
                self.requests.append(address)


@contextmanager
def chromium() -> Iterator[Tab]:
    """Start Chromium with a new profile, and end it."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("no Chromium; Debian has it as chromium")
    (theirs, writer), (reader, ours) = os.pipe(), os.pipe()
    given, taken = (fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in (theirs, ours))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        child = os.posix_spawn(
            program,
            [program, f"--user-data-dir={profile}", *OPTIONS],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given, 3),
                (os.POSIX_SPAWN_DUP2, taken, 4),
                (os.POSIX_SPAWN_DUP2, nowhere, 2),
            ],
        )
        for each in (theirs, ours, given, taken, nowhere):
            os.close(each)
        try:
            tab = Tab(reader, writer)
            yield tab
            tab.call("Page.close")
        finally:
            os.kill(child, 15)
            os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)
