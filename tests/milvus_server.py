"""A real Milvus server on this machine, for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVE = """
import sys, time
from milvus import default_server
default_server.set_base_dir(sys.argv[1])
default_server.start()
print(default_server.listen_port, flush=True)
sys.stdin.read()
default_server.stop()
"""


@contextmanager
def running_server(folder: Path) -> Iterator[str | None]:
    """Run a server whose files are in a folder; yield its address, or None if it does not start."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline().strip()
        yield f"http://127.0.0.1:{line}" if line.isdecimal() else None
        process.stdin.close()
        process.wait()
