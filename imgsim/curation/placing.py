"""Put a file at another place, where nothing is replaced and nothing gets lost."""

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from imgsim.errors import ImageError
from imgsim.files import mtime_ns, sync_directory, sync_file
from imgsim.images.decode import content_hash

_HERE = -100  # AT_FDCWD
_NO_REPLACE = 1
_RENAME = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux has it
_NOT_THERE = {errno.EINVAL, errno.ENOSYS}  # the kernel or the file system does not know it
_ELSEWHERE = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}

Stamp = tuple[int, int, int, int, int]


def stamp(facts: os.stat_result) -> Stamp:
    """Return what changes when a file is replaced or written to."""
    what = facts.st_dev, facts.st_ino, facts.st_size
    return *what, facts.st_mtime_ns, facts.st_ctime_ns


def require_same(path: str, seen: os.stat_result) -> None:
    """Raise :class:`ImageError` if the file at ``path`` is not the one that was seen."""
    if stamp(os.lstat(path)) != stamp(seen):
        raise ImageError(path, "was changed just now")


def has_content(path: str, size: int, sha256: bytes) -> bool:
    """Say whether there is a regular file of this content; raise OSError if that cannot be seen."""
    try:
        facts = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return facts.st_size == size and not os.path.islink(path) and content_hash(path) == sha256


def is_writable(folder: str) -> bool:
    """Say whether files in a folder may be made and removed."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def place(source: str, target: str, making: str, time: int, sha256: bytes) -> None:
    """Move the file at ``source`` durably to ``target``, where there must be nothing.

    On another drive a copy called ``making`` gets owner, permissions, ``time`` of modification in
    nanoseconds and extended attributes, is compared with the hash, and takes the name; then the
    source goes. Raises OSError or :class:`ImageError`; then the caller has to look where it is.
    """
    seen = os.lstat(source)
    make_folder(os.path.dirname(target))
    try:
        rename_new(source, target)
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
        copy_new(source, target, making, time, sha256)
        try:
            require_same(source, seen)
            os.unlink(source)
        except (ImageError, OSError):
            os.unlink(target)
            raise
    sync_directory(Path(target).parent)
    sync_directory(Path(source).parent)


def rename_new(source: str, target: str) -> None:
    """Rename a file, or raise FileExistsError if there is something at ``target``.

    Where the system cannot do that at once, the file has both names for a moment.
    """
    if _RENAME is not None:
        ours, theirs = os.fsencode(source), os.fsencode(target)
        if _RENAME(_HERE, ours, _HERE, theirs, _NO_REPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_THERE:
            raise OSError(number, os.strerror(number), source, None, target)
    os.link(source, target, follow_symlinks=False)
    os.unlink(source)


def copy_new(source: str, target: str, making: str, time: int, sha256: bytes) -> None:
    """Copy a file durably, with all that is known of it; see :func:`place`."""
    try:
        copy_whole(source, making, time, sha256)
        rename_new(making, target)
        sync_directory(Path(target).parent)
    finally:
        _remove(making)


def copy_whole(source: str, making: str, time: int, sha256: bytes) -> None:
    """Make the file ``making`` of the content and the facts of another; see :func:`place`."""
    shutil.copyfile(source, making)
    sync_file(Path(making))
    facts = os.stat(source)
    with suppress(PermissionError):  # only root gives files away
        os.chown(making, facts.st_uid, facts.st_gid)
    shutil.copystat(source, making)
    if mtime_ns(facts) != time:
        os.utime(making, ns=(facts.st_atime_ns, time))
    if content_hash(making) != sha256:
        raise ImageError(source, "was changed just now, or its copy is not what was read")


def remove_unfinished(*names: str) -> None:
    """Remove files in the making that a run has left."""
    for name in names:
        with suppress(NotADirectoryError):
            _remove(name)


def make_folder(folder: str) -> None:
    """Make a folder durably, and those that it is in, where they are missing."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        os.mkdir(each)
        sync_directory(Path(each).parent)


def remove_empty(folder: str, top: str) -> None:
    """Remove an empty folder and those that it is in, as far as they are empty, below ``top``."""
    while folder.startswith(f"{top}/"):
        try:
            os.rmdir(folder)
        except OSError:
            return
        folder = os.path.dirname(folder)


def _remove(name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name)
