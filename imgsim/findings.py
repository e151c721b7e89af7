"""What the curation of a collection finds, and what it did to files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileChange:
    """A file of so many ``bytes`` that was moved to ``target``, as ``kept`` stays instead.

    Where it was replaced by a hard link to ``kept``, the target is its own path.
    """

    path: str
    target: str
    kept: str
    bytes: int


@dataclass(frozen=True)
class LeftAlone:
    """A file that nothing was done to, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ChangeReport:
    """What was done to files, or would be; ``manifest`` is what undoes it, empty if nothing was."""

    changed: tuple[FileChange, ...]
    left: tuple[LeftAlone, ...]
    manifest: str = ""


@dataclass(frozen=True)
class RestoreReport:
    """The paths of the files that are as they were again, or would be, and of those that are not.

    Of files that were moved, the collection knows ``known`` again. ``warnings`` say what failed
    after all files were there.
    """

    restored: tuple[str, ...]
    left: tuple[LeftAlone, ...]
    known: int = 0
    warnings: tuple[str, ...] = ()
