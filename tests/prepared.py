"""The command in a copy of a process that has imported it: that takes a second, each time."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

MOST = 1 << 17  # bytes of a request


class Prepared:
    """Runs commands in copies of a process of its own.

    That may have its own environment, flags of the interpreter, and a function that is called first
    in it.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, *flags, "-m", "tests.prepared", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[1],
            env=dict(self._environment),
            start_new_session=True,
            preexec_fn=before,  # noqa: PLW1509 - no thread of this process holds what it needs
        )
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
        """Run the command in a folder, with an empty standard input, for at most 300 s."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with open(os.devnull, "rb") as nothing:
                request = json.dumps([arguments, str(cwd), dict(self._environment)]).encode()
                files = [file.fileno() for file in (nothing, out, err)]
                socket.send_fds(self._socket, [request], files)
            self._socket.settimeout(300)
            try:
                code = int(self._socket.recv(MOST))
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()


def serve(connection: socket.socket, added: Mapping[str, str]) -> None:
    """Make a copy of this process for each request, and return in it.

    Its environment is that of the request, and what imports ``added``.
    """
    while True:
        request, files, _, _ = socket.recv_fds(connection, MOST, 3)
        if not request:
            os._exit(0)
        child = os.fork()
        if not child:
            break
        for file in files:
            os.close(file)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(connection.fileno(), str(code).encode())  # it may be forbidden to send
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    arguments, cwd, environment = json.loads(request)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update({**added, **environment})
    sys.argv[1:] = arguments


if __name__ == "__main__":
    first = dict(os.environ)
    import pydantic.type_adapter  # noqa: F401 - typer imports it late

    import imgsim.collection  # noqa: F401 - as the command does
    from imgsim.cli.main import main

    gc.freeze()  # else a collection in a copy copies each page of memory that it looks at
    added = {name: value for name, value in os.environ.items() if name not in first}
    serve(socket.socket(fileno=int(sys.argv[1])), added)
    main()
