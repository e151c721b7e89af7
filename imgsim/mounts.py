"""What file systems are mounted."""

import os
import re
from pathlib import Path

_TABLE = "/proc/self/mountinfo"  # proc_pid_mountinfo(5)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return the kind of the file system at a path, as ``nfs4``; empty where nothing tells it."""
    if not os.path.exists(_TABLE):
        return ""
    below, kind, length = os.path.realpath(path) + "/", "", 0
    for line in Path(_TABLE).read_bytes().splitlines():
        before, _, after = os.fsdecode(line).partition(" - ")
        place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        if len(place) >= length and below.startswith(
            place.rstrip("/") + "/"
        ):  # it covers former ones
            kind, length = after.split(" ")[0], len(place)
    return kind
