"""Where files may have changed: what the kernel notices, and a clock where it notices nothing."""

import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from imgsim import mounts
from imgsim.errors import ExtraMissing
from imgsim.text import printable

_REMOTE = re.compile(
    r"9p|afs|ceph|cifs|drvfs|fuse(\..*)?|lustre|nfs4?|smb3|smbfs|vboxsf|virtiofs"
)  # what others change there, the kernel does not notice
_GROUPED = 500  # milliseconds
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How many seconds pass between looks.

    A file is ``still`` if two looks so far apart find the same size and time; on ``remote`` file
    systems, which remember for some seconds what a file was, if these are. Where the kernel notices
    nothing, everything is looked at ``often``; else ``seldom``, for what it missed.
    """

    still: float = 1.0
    remote: float = 5.0
    often: float = 10.0
    seldom: float = 3_600.0


class Notices:
    """Says where something changed at and under ``roots``, from when it is made until it is closed.

    Changes under ``own``, the folder that is written to meanwhile, do not count. Roots may be
    missing, vanish and come back. Raises :class:`ExtraMissing` without watchfiles.
    """

    def __init__(self, roots: Sequence[str], own: str, pace: Pace) -> None:
        if find_spec("watchfiles") is None:
            raise ExtraMissing("watching needs watchfiles: `pip install 'imgsim[watch]'`")
        self._roots, self._pace = roots, pace
        self._own = tuple({f"{own}/", f"{os.path.realpath(own)}/"})
        self._seen = {root: _identity(root) for root in roots}
        self._stream: Iterator[AbstractSet[tuple[int, str]]] | None = None
        self._unnoticed: set[str] = set()
        self._early: set[str] = set()
        self._told: set[str] = set()
        self._problem = ""
        self._all_due = time.monotonic() + pace.seldom
        self._unnoticed_due = time.monotonic() + pace.often
        self._start()

    def close(self) -> None:
        """Notice nothing any more."""
        self._stream = None

    def wait(self) -> set[str]:
        """Return, when it is time to look, where something may have changed at and under a path."""
        seconds = self._pace.remote if self._unnoticed else self._pace.still
        end = time.monotonic() + seconds
        changed, self._early = self._early, set()
        while (left := end - time.monotonic()) > 0:
            if self._stream is None:
                time.sleep(left)
            else:
                changed |= self._next()
        return changed | self._moved() | self._due()

    def postpone(self, seconds: float) -> None:
        """Look at what nobody notices no sooner than in so many seconds."""
        self._unnoticed_due = max(self._unnoticed_due, time.monotonic() + seconds)

    def _next(self) -> set[str]:
        """Return what the kernel has noticed, or nothing after a moment."""
        if self._stream is None:
            return set()
        try:
            changes = {path for _, path in next(self._stream)}
        except (RuntimeError, OSError) as error:  # a limit of the kernel, or a name not in UTF-8
            self._stream, self._unnoticed, self._problem = None, set(self._roots), f" ({error})"
            return set()
        real = cache(os.path.realpath)
        for path in [path for path in changes if not path.startswith(self._own)]:
            folder, name = os.path.split(path)
            changes.add(os.path.join(real(folder), name))  # a folder with two names has one here
            if os.path.islink(path):
                changes.add(os.path.realpath(path))
        return {path for path in changes if not path.startswith(self._own)}

    def _moved(self) -> set[str]:
        """Return the roots that are other files or folders than before, or come or gone."""
        now = {root: _identity(root) for root in self._roots}
        moved = {root for root in self._roots if now[root] != self._seen[root]}
        if moved:
            self._seen = now
            self._start()
        return moved

    def _due(self) -> set[str]:
        """Return the roots whose time it is."""
        now, due = time.monotonic(), set[str]()
        if self._unnoticed and now >= self._unnoticed_due:
            due = set(self._unnoticed)
            self._unnoticed_due = now + self._pace.often
            if self._stream is None:
                self._start()
        if now >= self._all_due:
            due, self._all_due = set(self._roots), now + self._pace.seldom
        return due

    def _start(self) -> None:
        """Let the kernel notice what it can."""
        from watchfiles import watch  # noqa: PLC0415 - few need it

        there = [root for root in self._roots if self._seen[root] is not None]
        noticed = [root for root in there if _is_noticed(root)]
        self._unnoticed = set(there).difference(noticed)
        self._stream, self._problem = None, ""
        if noticed:
            self._stream = watch(
                *noticed,
                watch_filter=None,
                debounce=_GROUPED,
                step=_GROUPED // 5,
                rust_timeout=_GROUPED,
                yield_on_timeout=True,
                force_polling=False,
                ignore_permission_denied=True,
            )
            self._early |= self._next()
        for root in sorted(self._unnoticed - self._told):
            _LOG.warning(
                "%s: looks now and then, as nobody says what changes%s",
                printable(root),
                self._problem,
            )
        self._told |= self._unnoticed


def _identity(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        facts = os.stat(path)
        return facts.st_dev, facts.st_ino
    return None


def _is_noticed(path: str) -> bool:
    """Say whether the kernel notices all changes under a path, and watchfiles can say so."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not _REMOTE.fullmatch(mounts.kind_of(path))
