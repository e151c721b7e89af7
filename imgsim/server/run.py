"""A server that listens."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import uvicorn

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
) -> None:
    """Serve the collection at ``path`` until the process is interrupted.

    ``on_start`` gets the address when it listens; with port 0, the system chooses one. Raises
    :class:`PortTaken` if it cannot.
    """
    directory = Directory.open(Path(absolute(os.fspath(path))), create=False, device=device)
    with closing(directory), _listening(settings) as listening:
        settings = replace(settings, token=settings.key, port=listening.getsockname()[1])
        config = uvicorn.Config(
            create_app(directory, settings),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        on_start(settings.address)
        uvicorn.Server(config).run(sockets=[listening])


def _listening(settings: ServerSettings) -> socket.socket:
    try:
        kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=kind)
    except OSError as error:
        reason = error.strerror or error
        raise PortTaken(
            f"{settings.host}:{settings.port}: {reason}; choose another --port"
        ) from error
