"""Who reads and who writes a collection: locks that the kernel releases, however a process ends."""

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from imgsim.errors import CollectionError, CollectionForbidden, CollectionLocked


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
        descriptor = _descriptor(directory / "readers", os.O_RDONLY)
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
    descriptor = _descriptor(directory / "readers", os.O_RDONLY)
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
    """Open the lock, made if missing; never another file that a link of either kind leads to."""
    try:
        file = open(_descriptor(directory / "lock", os.O_RDWR), "r+b")  # noqa: SIM115 - callers close it
    except OSError as error:
        kind = CollectionForbidden if isinstance(error, PermissionError) else CollectionError
        raise kind(directory, f"cannot be written to: {error.strerror}") from error
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        file.close()
        raise CollectionError(directory, "lock in it is no file of its own; remove it")
    return file


def _descriptor(path: Path, mode: int) -> int:
    return os.open(path, mode | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = "process {pid} on {host} has been writing to it since {since}".format(**holder)
    except (ValueError, KeyError, TypeError):  # it is about to write who it is
        who = "another process is writing to it"
    return f"{who}; try again when it has finished"
