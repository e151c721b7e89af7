"""A PostgreSQL server of the tests' own, without a network."""

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
"""Where Debian keeps the server, if it is installed."""

MISSING = "no PostgreSQL: scripts/postgres installs it (as root)"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server:
    """A server, and addresses of empty schemas in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = itertools.count()
        self._user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        if self._user:
            shutil.chown(folder, self._user)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=imgsim", "--encoding=UTF8")
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(BINARIES / name), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, user=self._user, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it, after a kill too."""
        options = "-k", str(self.folder), "-c", "listen_addresses=", "-c", "max_connections=40"
        command = [str(BINARIES / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, stderr=log, stdout=log)
        for _ in range(300):
            try:
                psycopg.connect(self._address("public")).close()
            except psycopg.OperationalError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError((self.folder / "log").read_text())

    def kill(self) -> None:
        """End all of its processes, as a power cut does."""
        server = psutil.Process(self._process.pid)
        server.suspend()  # or it would start others
        all_of_it = [*server.children(), server]
        for each in all_of_it:
            each.kill()
        self._process.wait()
        while any(map(_runs, all_of_it)):
            time.sleep(0.01)

    def _address(self, schema: str) -> str:
        options = quote(f"-csearch_path={schema}")
        return f"postgresql://imgsim@/postgres?host={quote(str(self.folder))}&options={options}"

    def new_address(self) -> str:
        """Return the address of an empty schema."""
        schema = f"s{next(self._names)}"
        with psycopg.connect(self._address("public"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        return self._address(schema)


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server in a folder whose name is short: that of a socket may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.kill()
