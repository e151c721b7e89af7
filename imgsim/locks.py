"""Who reads and who writes a collection: locks that the kernel releases, however a process ends."""

import errno
import fcntl
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from imgsim.errors import CollectionError, CollectionForbidden, CollectionLocked

LOCAL_DISK = "keep the collection on a local disk; the pictures may stay where they are"
"""What to do where a file system lacks something that a collection needs."""

_LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_LOG = logging.getLogger(__name__)


@contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Be the one writer of the collection in ``directory``.

    The kernel holds the lock (``flock``) and releases it when the process ends, however it ends.
    The file says who holds it, for the message that another writer gets. Raises
    :class:`CollectionError` where the file system gives no locks.
    """
    with _open_lock(directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CollectionLocked(directory, _holder(file)) from error
        except OSError as error:
            raise _refusal(directory, error) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with suppress(OSError):  # a full disk is no reason not to remove something
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), json.dumps(holder).encode(), 0)
        yield
        with suppress(OSError):
            os.ftruncate(file.fileno(), 0)


def writer_of(directory: Path) -> str:
    """Return who is the writer of the collection, as far as its lock says; empty if nobody is."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(descriptor, "rb") as file, suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(file.read(4_096))
        if holder["host"] != socket.gethostname() or _runs(holder["pid"]):
            return "process {pid} on {host}, since {since}".format(**holder)
    return ""


def _runs(pid: int) -> bool:
    """Say whether there is a process; one that was killed has left its number in the lock."""
    try:
        os.kill(pid, 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep the files that a snapshot of the collection names, from before it is taken.

    Readers share a lock with one another, and wait for nobody but :func:`sole_reader`. Where the
    file system gives no locks, they do without: nobody there can be the writer who removes files.
    """
    try:
        descriptor = _descriptor(directory / "readers", os.O_RDONLY)
    except OSError:  # where nothing can be written, nothing can be removed either
        yield
        return
    try:
        _share(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _share(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _LOCKLESS:
            raise _refusal(directory, error) from error
        _LOG.debug("reading without a lock: %s", error.strerror)


@contextmanager
def sole_reader(directory: Path) -> Iterator[bool]:
    """Say whether nobody is :func:`reading`; if so, nobody begins until the block ends."""
    try:  # NFS locks for one alone only what is open for writing
        descriptor = _descriptor(directory / "readers", os.O_RDWR)
    except PermissionError:  # another user made it
        descriptor = _descriptor(directory / "readers", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        os.close(descriptor)


def require_locks(directory: Path) -> None:
    """Raise :class:`CollectionError` where the file system gives no locks that machines share."""
    try:
        with open(_descriptor(directory / "readers", os.O_RDONLY), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # somebody sweeps
        return
    except OSError as error:
        raise _refusal(directory, error) from error


def require_record_locks(directory: Path) -> None:
    """Raise :class:`CollectionError` where the file system refuses the locks that SQLite takes.

    SQLite would wait for half a minute and then say that the database is locked. What is tried is
    another file than its own, all of whose locks go when any descriptor of it is closed.
    """
    try:
        descriptor = _descriptor(directory / "readers", os.O_RDONLY)
    except OSError:  # SQLite will say what is wrong
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # somebody has a lock, so there are locks
        return
    except OSError as error:
        raise _refusal(directory, error) from error
    finally:
        os.close(descriptor)


def _refusal(directory: Path, error: OSError) -> CollectionError:
    """Return what to raise where the file system does not give a lock, though nobody has it."""
    if error.errno not in _LOCKLESS:
        return CollectionError(directory, f"cannot be locked: {error.strerror}")
    name = errno.errorcode[error.errno]
    return CollectionError(
        directory,
        f"this file system gives no file locks ({name}), as on some network shares; {LOCAL_DISK}",
    )


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


def _holder(file: IO[bytes]) -> str:
    try:
        holder = json.loads(os.pread(file.fileno(), 4_096, 0))
        who = "process {pid} on {host} has been writing to it since {since}".format(**holder)
    except (OSError, ValueError, KeyError, TypeError):  # SMB hides it, or it is not written yet
        who = "another process is writing to it"
    return f"{who}; try again when it has finished"
