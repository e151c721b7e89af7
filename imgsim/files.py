"""Files: atomic and durable writes, checksums, and absolute paths."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgsim.errors import StoreError

_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def sync_directory(directory: Path) -> None:
    """Make renames and new names in ``directory`` survive a power loss.

    Some network file systems write no directory on demand; there it is up to them.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of ``path`` survive a power loss."""
    with path.open("rb+") as file:
        _sync(file.fileno())


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
    if sys.platform == "darwin":  # there it only reaches the drive's own memory
        with suppress(OSError):  # not every file system knows more
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that durably takes the place of ``path`` when the block succeeds.

    A link there is replaced itself, and what it points to stays.
    """
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: exists and is not a regular file")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path | str, besides: str = "") -> Iterator[None]:
    """Raise :class:`StoreError` for what the operating system refuses while ``path`` is written.

    ``besides`` ends the message.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{path}: cannot be written: {reason}{besides}") from error


@contextmanager
def new_directory(parent: Path) -> Iterator[Path]:
    """Yield a new temporary directory in ``parent`` that is removed unless it was renamed."""
    temporary = parent / f".{secrets.token_hex(8)}.tmp"
    with writing(parent):
        temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_directory(temporary: Path, target: Path) -> None:
    """Durably rename the directory ``temporary`` and the files in it to ``target``."""
    with writing(target):
        for path in temporary.iterdir():
            sync_file(path)
        sync_directory(temporary)
        temporary.rename(target)
        sync_directory(target.parent)


def renew_besides(temporary: Path, target: Path, kept: Collection[str]) -> None:
    """Durably move the files in ``temporary`` into ``target``, but those of names that are kept."""
    with writing(target):
        for path in temporary.iterdir():
            if path.name not in kept:
                sync_file(path)
                path.rename(target / path.name)
        sync_directory(target)


def absolute(path: str) -> str:
    """Return an absolute path, with links in it kept; raise ValueError for an empty one.

    It leads where the kernel would go: ``..`` after a link is the parent of what that points to.
    """
    if not path:
        raise ValueError("a path is empty")
    found = "/" if path.startswith("/") else os.getcwd()
    for part in path.split("/"):
        if part == "..":
            found = os.path.dirname(os.path.realpath(found) if os.path.islink(found) else found)
        elif part not in {"", "."}:
            found = os.path.join(found, part)
    return found


def disk_bytes(directory: Path) -> int:
    """Return how many bytes of the disk the files in a directory take."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # it was a temporary one
                total += 512 * os.lstat(os.path.join(folder, name)).st_blocks
    return total


def mtime_ns(facts: os.stat_result) -> int:
    """Return the time of modification in nanoseconds, as far as 64 bits hold it."""
    return max(-(2**63), min(facts.st_mtime_ns, 2**63 - 1))


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return where imgsim keeps what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgsim"
