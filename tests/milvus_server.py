"""A real Milvus server on this machine, for tests; two do not run beside each other."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

_SERVE = """
import os, sys, time
from milvus import default_server
default_server.set_base_dir(sys.argv[1])
default_server.start()
print(default_server.listen_port, flush=True)
while True:
    time.sleep(0.5)
    try:
        os.kill(int(sys.argv[2]), 0)
    except ProcessLookupError:
        break
default_server.stop()
"""

_RUNNING: list[subprocess.Popen[str]] = []  # or Python would complain that they go on


def shared_server(folder: Path, user: int) -> str | None:
    """Return the address of the server whose files are in a folder; None if it does not start.

    The first who asks starts it. It ends when process ``user`` has ended.
    """
    noted = folder / "address"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not noted.exists():
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, folder / "data", str(user)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,
                text=True,
            )
            assert process.stdout is not None
            with process.stdout as output:
                port = output.readline().strip()
            _RUNNING.append(process)
            noted.write_text(f"http://127.0.0.1:{port}" if port.isdecimal() else "")
    return noted.read_text() or None
