"""What the user of a server decides."""

import ipaddress
import secrets
import socket
from dataclasses import dataclass, field

from imgsim.options import MAX_PIXELS


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, what it takes, and what it may do.

    It listens at ``host`` and ``port``, or at ``unix_socket``, a path. Requests need ``token``.
    Bodies of more than ``upload_bytes``, or that take more than ``upload_seconds``, and images of
    more than ``max_pixels`` are refused. At most ``waiting`` requests wait for one of the cores.
    Thumbnails take up to ``thumbnail_bytes`` of the disk. With ``changes``, duplicates may be
    judged, and where there is a folder ``move_to``, moved there. The images in ``labelled`` may be
    evaluated. A host that other machines reach without a token of the user's raises ValueError.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str = ""
    upload_bytes: int = 64 << 20
    upload_seconds: float = 60.0
    max_pixels: int = MAX_PIXELS
    waiting: int = 64
    thumbnail_bytes: int = 1 << 30
    changes: bool = False
    move_to: str = ""
    labelled: str = ""
    unix_socket: str = ""
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse to be open to other machines by accident; draw a token where none is given."""
        if not self.token and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} is reached by other machines; give a --token of your own"
            )
        if self.move_to and not self.changes:
            raise ValueError("nothing is moved without --allow-changes")
        if self.token and len(self.token) < 16:
            raise ValueError("the token must have at least 16 characters")
        object.__setattr__(self, "key", self.token or secrets.token_urlsafe(24))

    def is_own(self, name: str) -> bool:
        """Say whether a request may call the server so: ``name`` is what its Host header says.

        A page of another site can let its own name lead here, but no address; and not to a socket.
        """
        if self.unix_socket:
            return True
        host, _, port = name.rpartition(":")
        if port != str(self.port):
            return False
        if is_loopback(self.host):
            return host in {"127.0.0.1", "localhost", "[::1]"}
        bare = host.removeprefix("[").removesuffix("]")
        return bare in {self.host, socket.gethostname()} or _is_address(bare)

    @property
    def address(self) -> str:
        """Return the address to open in a browser, or to ask at the socket, with the token."""
        if self.unix_socket:
            return f"http://localhost/?token={self.key}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.key}"


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches a host."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
