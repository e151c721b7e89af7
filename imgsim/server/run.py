"""A server that listens."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import uvicorn

from imgsim.cluster_options import ClusterSettings, MilvusSettings
from imgsim.directory import Directory
from imgsim.errors import ImgsimError
from imgsim.files import absolute
from imgsim.options import Device
from imgsim.server.app import create_app
from imgsim.server.settings import ServerSettings


class PortTaken(ImgsimError):
    """The server cannot listen where it should."""


def serve(
    path: Path,
    settings: ServerSettings,
    on_start: Callable[[str], None],
    device: Device = "auto",
    cluster: ClusterSettings | MilvusSettings | None = None,
) -> None:
    """Serve the collection at ``path`` until the process is interrupted.

    ``on_start`` gets the address when it listens; with port 0, the system chooses one. Raises
    :class:`PortTaken` if it cannot.
    """
    place = Path(absolute(os.fspath(path)))
    directory = Directory.open(place, create=False, device=device, cluster=cluster)
    with closing(directory), _listening(settings) as listening:
        settings = replace(settings, token=settings.key)
        if not settings.unix_socket:
            settings = replace(settings, port=listening.getsockname()[1])
        config = uvicorn.Config(
            create_app(directory, settings),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        on_start(settings.address)
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _listening(settings: ServerSettings) -> Iterator[socket.socket]:
    where = settings.unix_socket or f"{settings.host}:{settings.port}"
    try:
        listening = _bound(settings)
    except OSError as error:
        other = "--unix-socket" if settings.unix_socket else "--port"
        raise PortTaken(f"{where}: {error.strerror or error}; choose another {other}") from error
    try:
        with listening:
            yield listening
    finally:
        if settings.unix_socket:
            Path(settings.unix_socket).unlink(missing_ok=True)


def _bound(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens, or raise OSError. One of a path is for its owner alone."""
    path = settings.unix_socket
    if not path:
        kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server((settings.host, settings.port), family=kind)
        # Else what follows the head of an answer waits 40 ms for the client's next acknowledgement:
        # asyncio sets this only on sockets whose protocol was named.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    _remove_left_over(path)
    former = os.umask(0o177)
    try:
        return socket.create_server(path, family=socket.AF_UNIX)
    finally:
        os.umask(former)


def _remove_left_over(path: str) -> None:
    """Remove the socket of a server that was killed."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as asking:
                if asking.connect_ex(path):
                    os.unlink(path)
