"""The folder in which the files of segments are, or copies of those in a bucket."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from imgsim.errors import CollectionDamaged
from imgsim.index.segment_file import TABLE_END
from imgsim.records import SEGMENT_NAME

EMBEDDINGS_END, BOUNDS_END = ".faiss", ".bounds"
_PROJECTION = "basis.npz"
_ENDS = EMBEDDINGS_END, TABLE_END, BOUNDS_END
_OLD_ENDS = (".ids.npy",)  # of schema 0004
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")
_OWN = re.compile(
    rf"{SEGMENT_NAME.pattern}({'|'.join(map(re.escape, _ENDS + _OLD_ENDS))})|{_TEMPORARY.pattern}"
)


class Origin(Protocol):
    """Where files are that a folder has copies of."""

    def names(self) -> set[str]:
        """Return the names of all files."""

    def get(self, target: Path, sha256: str = "") -> None:
        """Copy the file that is called as ``target`` to there, if there is one."""

    def put(self, path: Path) -> None:
        """Copy a file to the origin."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class SegmentFolder:
    """The files of segments in the folder ``path``.

    With an ``origin``, a file is there before it counts, and is copied from there when it is
    needed. What is never altered is copied once, and the rest when it does not fit.
    """

    def __init__(self, path: Path, origin: Origin | None = None) -> None:
        self.path = path
        self._origin = origin

    def embeddings(self, name: str) -> Path:
        """Return where the embeddings of a segment are."""
        return self._file(name, EMBEDDINGS_END)

    def table(self, name: str) -> Path:
        """Return where the table of a segment's rows is."""
        return self._file(name, TABLE_END)

    def bounds(self, name: str) -> Path:
        """Return where the bounds of a segment are, if there are any."""
        return self._file(name, BOUNDS_END)

    def _file(self, name: str, end: str) -> Path:
        """Return where a file of a segment is; a damaged catalog may have any name."""
        if not SEGMENT_NAME.fullmatch(name):
            raise CollectionDamaged(self.path, "segments named by 16 digits", repr(name))
        return self.path / f"{name}{end}"

    @property
    def projection(self) -> Path:
        """Return where the projection of all bounds is, if there is one."""
        return self.path / _PROJECTION

    def here(self, path: Path, sha256: str = "") -> Path:
        """Return where a file is, copied from the origin if need be, unless there is none.

        Raises :class:`CollectionDamaged` if it has another ``sha256`` there.
        """
        if self._origin is not None and not path.exists():
            self._origin.get(path, sha256)
        return path

    def renewed(self, path: Path, sha256: str = "") -> bool:
        """Copy a file anew, and return whether that can have changed it."""
        if self._origin is None:
            return False
        self._origin.get(path, sha256)
        return True

    def publish(self, *paths: Path) -> None:
        """Let files that were written be at the origin, too."""
        for path in paths:
            if self._origin is not None:
                self._origin.put(path)

    def publish_missing(self, segments: Iterable[str]) -> None:
        """Let what is here of segments be at the origin, too, where a writer ended early."""
        if self._origin is None:
            return
        elsewhere = self._origin.names()
        names = [f"{name}{end}" for name in segments for end in _ENDS]
        for name in (*names, _PROJECTION):
            if name not in elsewhere and (self.path / name).exists():
                self._origin.put(self.path / name)

    def withdraw(self, path: Path) -> None:
        """Let a file that will be written anew be nowhere but here."""
        if self._origin is not None:
            self._origin.remove(path.name)

    def drop(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)
        self.withdraw(path)

    def lacking(self, segments: Iterable[str]) -> list[Path]:
        """Return the embeddings of segments that are here and not at the origin."""
        if self._origin is None:
            return []
        elsewhere = self._origin.names()
        paths = map(self.embeddings, segments)
        return [path for path in paths if path.exists() and path.name not in elsewhere]

    def found(self) -> Iterator[Path]:
        """Yield all that may be embeddings of segments."""
        names = {path.name for path in self.path.glob(f"*{EMBEDDINGS_END}")}
        for name in sorted(names | self._elsewhere()):
            if name.endswith(EMBEDDINGS_END):
                yield self.here(self.path / name)

    def sweep(self, segments: Iterable[str]) -> None:
        """Remove the files that belong to none of the segments of these names.

        Files with names that are not its own stay. While a segment is missing, so do those of
        others, of which one may be it.
        """
        names, elsewhere = set(segments), self._elsewhere()
        there = elsewhere if self._origin else {path.name for path in self.path.iterdir()}
        swept = _OWN if all(f"{name}{EMBEDDINGS_END}" in there for name in names) else _TEMPORARY
        kept = {f"{name}{end}" for name in names for end in _ENDS}
        for path in self.path.iterdir():
            if path.name not in kept and swept.fullmatch(path.name) and not path.is_dir():
                path.unlink(missing_ok=True)
        for name in elsewhere - kept:
            if self._origin is not None and swept.fullmatch(name):
                self._origin.remove(name)

    def _elsewhere(self) -> set[str]:
        """Return the names of all files at the origin."""
        return set() if self._origin is None else self._origin.names()
