"""The manifest: a log of what is done to files, written ahead, by which it can be undone.

docs/format.md describes its lines. A line is on the disk before what it announces begins.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Self, get_args

from imgsim.errors import ManifestError, OutputError
from imgsim.files import sync_directory, sync_file, writing
from imgsim.images.scan import MANIFEST

FORMAT = 1

Act = Literal["move", "hardlink"]
"""What a manifest is about."""

State = Literal["moving", "moved", "linking", "linked", "restoring", "restored", "left", "gone"]
"""Where a file is: on its way, at its target, or back at its path; or it is nowhere."""

BEGUN: dict[Act, State] = {"move": "moving", "hardlink": "linking"}
DONE: dict[Act, State] = {"move": "moved", "hardlink": "linked"}
BACK: dict[State, State] = {"moving": "left", "linking": "left", "restoring": "restored"}
"""What the state becomes if the file turns out to be at its path; only these are not settled."""

_ACTS: dict[str, Act] = {act: act for act in get_args(Act)}
_STATES: dict[str, State] = {state: state for state in get_args(State)}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """What is done, for the collection in which folder, and what names of files in the making have.

    ``token`` is drawn at random.
    """

    act: Act
    collection: str
    token: str

    def is_of(self, collection: Path) -> bool:
        """Say whether it is the collection in this folder for which something is done."""
        return self.collection == os.path.realpath(collection)


@dataclass(frozen=True)
class Entry:
    """A file that is acted upon: from ``path`` to ``target``, as ``kept`` stays instead of it.

    The paths are absolute; a hard link's target is its path. Size, time and content are those that
    the catalog had.
    """

    number: int
    path: str
    target: str
    kept: str
    size: int
    mtime_ns: int
    sha256: bytes
    state: State


class Manifest:
    """A manifest that is being written, by one process alone. Use it as a context manager."""

    def __init__(
        self, path: Path, header: Header, entries: dict[int, Entry], file: IO[bytes]
    ) -> None:
        self.path = path
        self.header = header
        self.entries = entries
        self._file = file

    @classmethod
    def create(cls, folder: Path, act: Act, collection: Path) -> Self:
        """Begin a manifest in ``folder``, or raise :class:`OutputError`."""
        token = secrets.token_hex(4)
        began = time.strftime("%Y%m%d-%H%M%S")
        path = folder / f"{DONE[act]}-{began}-{token}{MANIFEST}"
        try:
            file = path.open("xb")
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to: {error.strerror}") from error
        manifest = cls(path, Header(act, os.path.realpath(collection), token), {}, file)
        manifest._lock()
        manifest._append({"format": FORMAT, **vars(manifest.header)})
        with writing(path):
            sync_directory(folder)
        return manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on with a manifest, or raise :class:`ManifestError`.

        What is left of a line that was cut short is removed: nothing had begun yet.
        """
        try:
            file = path.open("rb+")
        except OSError as error:
            raise ManifestError(f"{path}: cannot be written to: {error.strerror}") from error
        try:
            manifest = cls(path, Header("move", "", ""), {}, file)
            manifest._lock()
            content = file.read()
            manifest.header, manifest.entries = _parsed(path, content)
            file.seek(file.truncate(content.rfind(b"\n") + 1))
        except (ManifestError, OSError):
            file.close()
            raise
        return manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written has been reported
            self._file.close()

    def begin(self, entry: Entry) -> None:
        """Announce what is to be done to a file."""
        self.entries[entry.number] = entry
        facts = vars(entry) | {"sha256": entry.sha256.hex()}
        if self.header.act == "move":  # the folder may be somewhere else by then
            facts["target"] = os.path.relpath(entry.target, self.path.parent)
        self._append(facts)

    def note(self, number: int, state: State, reason: str = "") -> None:
        """Note the state of a file from now on, and the reason if it is not the one wanted."""
        self.entries[number] = replace(self.entries[number], state=state)
        self._append({"number": number, "state": state} | ({"reason": reason} if reason else {}))

    def in_the_making(self, entry: Entry, place: str) -> str:
        """Return the name that a file has before it is at ``place``."""
        return f"{os.path.dirname(place)}/.imgsim-{self.header.token}-{entry.number}.tmp"

    def _append(self, facts: dict[str, Any]) -> None:
        undo = f"; `imgsim restore` undoes what it has: {len(self.entries):,} files"
        with writing(self.path, undo if self.entries else ""):
            self._file.write(json.dumps(facts).encode() + b"\n")
            self._file.flush()
            sync_file(self.path)

    def _lock(self) -> None:
        """Keep others out, where the file system knows how; the kernel ends that with us."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ManifestError(f"{self.path}: another process is at work with it") from error
        except OSError as error:
            _LOG.debug("a manifest without a lock: %s", error.strerror)


def read(path: Path) -> tuple[Header, dict[int, Entry]]:
    """Return what a manifest says, or raise :class:`ManifestError`."""
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error


def manifests(folder: Path) -> list[Path]:
    """Return the manifests in a folder."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(MANIFEST))
    except OSError:
        return []


def _parsed(path: Path, content: bytes) -> tuple[Header, dict[int, Entry]]:
    """Return what the complete lines say."""
    if b"\n" not in content:
        raise ManifestError(f"{path}: is no manifest of imgsim, or an empty one: nothing was done")
    try:
        first, *lines = (json.loads(line) for line in content.split(b"\n")[:-1])
        header, entries = _header(first, path), dict[int, Entry]()
        for facts in lines:
            number = int(facts["number"])
            if "path" in facts:
                entries[number] = _entry(facts, header.act, path.parent)
            entries[number] = replace(entries[number], state=_STATES[facts["state"]])
    except ManifestError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise ManifestError(f"{path}: is no manifest of imgsim, or damaged") from error
    return header, entries


def _header(facts: dict[str, Any], path: Path) -> Header:
    if facts["format"] > FORMAT:
        raise ManifestError(f"{path}: a newer imgsim wrote it; use that")
    token = str(facts["token"])
    if not re.fullmatch(r"[0-9a-f]{8}", token):  # it becomes part of a name
        raise ValueError(token)
    return Header(_ACTS[facts["act"]], str(facts["collection"]), token)


def _entry(facts: dict[str, Any], act: Act, folder: Path) -> Entry:
    """Return an entry that concerns what a run with a manifest in this folder may have done."""
    path = str(facts["path"])
    target = os.path.normpath(os.path.join(folder, facts["target"]))
    is_fit = target.startswith(f"{folder}/".replace("//", "/")) if act == "move" else target == path
    if not (is_fit and os.path.isabs(path)):
        raise ValueError(path)
    what = int(facts["size"]), int(facts["mtime_ns"]), bytes.fromhex(facts["sha256"])
    return Entry(int(facts["number"]), path, target, str(facts["kept"]), *what, facts["state"])
