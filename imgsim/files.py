"""Files: atomic and durable writes, checksums, the writer's lock, and names fit to be shown."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from imgsim.errors import CollectionError, CollectionLocked, StoreError


def sync_directory(directory: Path) -> None:
    """Make renames and new names in ``directory`` survive a power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of ``path`` survive a power loss."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that durably takes the place of ``path`` when the block succeeds."""
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: exists and is not a regular file")
    path = path.resolve()  # a link stays, what it points to is replaced
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(parent: Path) -> Iterator[Path]:
    """Yield a new temporary directory in ``parent`` that is removed unless it was renamed."""
    temporary = parent / f".{secrets.token_hex(8)}.tmp"
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_directory(temporary: Path, target: Path) -> None:
    """Durably rename the directory ``temporary`` and the files in it to ``target``."""
    for path in temporary.iterdir():
        sync_file(path)
    sync_directory(temporary)
    temporary.rename(target)
    sync_directory(target.parent)


def absolute(path: str) -> str:
    """Return an absolute path, with links in it kept; raise ValueError for an empty one."""
    if not path:
        raise ValueError("a path is empty")
    found = os.path.abspath(path)
    return found[1:] if found.startswith("//") else found  # POSIX keeps two slashes


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Be the one writer of the collection in ``directory``.

    The kernel holds the lock (``flock``) and releases it when the process ends, however it ends.
    The file says who holds it, for the message that another writer gets.
    """
    with _open_lock(directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CollectionLocked(directory, _holder(os.pread(file.fileno(), 4_096, 0))) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with suppress(OSError):  # a full disk is no reason not to remove something
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), json.dumps(holder).encode(), 0)
        yield
        with suppress(OSError):
            os.ftruncate(file.fileno(), 0)


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep the files that a snapshot of the collection names, from before it is taken.

    Readers share a lock with one another, and wait for nobody but :func:`sole_reader`.
    """
    try:
        descriptor = os.open(directory / "readers", os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:  # where nothing can be written, nothing can be removed either
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def sole_reader(directory: Path) -> Iterator[bool]:
    """Say whether nobody is :func:`reading`; if so, nobody begins until the block ends."""
    descriptor = os.open(directory / "readers", os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    try:
        yield alone
    finally:
        os.close(descriptor)


def _open_lock(directory: Path) -> IO[bytes]:
    try:
        return (directory / "lock").open("a+b")
    except OSError as error:
        raise CollectionError(directory, f"cannot be written to: {error.strerror}") from error


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = "process {pid} on {host} has been writing to it since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):  # it is about to write who it is
        who = "another process is writing to it"
    return f"{who}; try again when it has finished"


def printable(text: str) -> str:
    """Return text that is safe to show: control characters and lone surrogates escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def short_name(path: str) -> str:
    """Return the name of the file at ``path``, shortened to fit under a thumbnail."""
    name = printable(Path(path).name)
    return name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
