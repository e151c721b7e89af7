"""Act upon files for which others are kept: move them away, or replace them by links."""

import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from imgsim.catalog.snapshot import Snapshot
from imgsim.curation import links, moves
from imgsim.curation.checks import Contents, Pair, compared
from imgsim.curation.manifest import BEGUN, DONE, Act, Entry, Manifest, manifests
from imgsim.curation.placing import make_folder
from imgsim.curation.settling import settle, settle_entry
from imgsim.directory import MANIFESTS, Directory
from imgsim.errors import ImageError, ImageNotFound, ManifestError, OutputError, unavailable
from imgsim.files import absolute, mtime_ns
from imgsim.findings import ChangeReport, FileChange, LeftAlone
from imgsim.images.roots import is_gone
from imgsim.options import Stored
from imgsim.records import ImageRecord
from imgsim.results import Progress

_AT_ONCE = 100  # files, after which the catalog follows
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Deed:
    """What is done to a file, and what the catalog has to know of it afterwards.

    ``folder`` is where the manifest belongs, ``target`` returns where a path goes; ``check`` raises
    :class:`ImageError` for a file that is to stay.
    """

    act: Act
    folder: Path
    target: Callable[[str], str]
    check: Callable[[Pair, os.stat_result], None]
    do: Callable[[Manifest, Entry, os.stat_result], None]
    follow: Callable[[Sequence[Pair]], None]


def move_away(
    directory: Directory,
    pairs: Iterable[tuple[Stored, Stored]],
    folder: str,
    on_progress: Progress | None,
    *,
    dry_run: bool,
) -> ChangeReport:
    """Move the first of each pair of stored images into a folder, and forget it.

    The caller holds the writer's lock, unless it is a dry run.
    """
    folder = absolute(folder)
    moves.require_folder(folder)
    with directory.catalog.snapshot() as snapshot:
        if count := snapshot.count_under({folder, os.path.realpath(folder)}):
            raise OutputError(f"{folder}: {count:,} images in it are stored; name another folder")
        chosen, left = _resolved(snapshot, pairs)
        targets = moves.Targets(folder, snapshot.roots(), [pair.image.path for pair in chosen])

    def follow(moved: Sequence[Pair]) -> None:
        directory.catalog.forget([pair.number for pair in moved], (), ())

    deed = _Deed("move", Path(folder), targets.of, lambda *_: None, moves.move, follow)
    return _acted(directory, deed, chosen, left, on_progress, dry_run=dry_run)


def hardlink(
    directory: Directory,
    pairs: Iterable[tuple[Stored, Stored]],
    on_progress: Progress | None,
    *,
    dry_run: bool,
) -> ChangeReport:
    """Replace the first of each pair of stored images by a hard link to the second.

    The caller holds the writer's lock, unless it is a dry run.
    """
    with directory.catalog.snapshot() as snapshot:
        chosen, left = _resolved(snapshot, pairs)

    def follow(linked: Sequence[Pair]) -> None:
        note_times(directory, {pair.image.path: pair.image.sha256 for pair in linked})

    folder = directory.path / MANIFESTS
    deed = _Deed("hardlink", folder, lambda path: path, links.require_copy, links.link, follow)
    return _acted(directory, deed, chosen, left, on_progress, dry_run=dry_run)


def note_times(directory: Directory, contents: Mapping[str, bytes]) -> None:
    """Note the times that files have now, if they are stored with these contents, by path."""
    stamps = []
    for number, image in _stored(directory, contents):
        if not is_gone(image.path):
            facts = os.lstat(image.path)
            stamps.append((number, replace(image, mtime_ns=mtime_ns(facts))))
    if stamps:
        directory.catalog.commit_batch(None, {}, stamps)


def _stored(
    directory: Directory, contents: Mapping[str, bytes]
) -> Iterator[tuple[int, ImageRecord]]:
    """Yield the images that are stored under some paths with these contents."""
    with directory.catalog.snapshot() as snapshot:
        found = map(snapshot.id_at, snapshot.stamps(list(contents)))
        records = snapshot.records([number for number in found if number is not None])
    for number, image in records.items():
        if image.sha256 == contents[image.path]:
            yield number, image


def _resolved(
    snapshot: Snapshot, pairs: Iterable[tuple[Stored, Stored]]
) -> tuple[list[Pair], list[LeftAlone]]:
    """Return the pairs to act upon, the first one of each image, and what is kept and stays."""
    numbers = [(_number(snapshot, image), _number(snapshot, kept)) for image, kept in pairs]
    named = {number for pair in numbers for number in pair}
    records = snapshot.records(sorted(named))
    for number in named - records.keys():
        raise ValueError(f"no stored image has the id {number}")
    chosen, left, stay = dict[int, Pair](), list[LeftAlone](), {kept for _, kept in numbers}
    for number, kept in numbers:
        chosen.setdefault(number, Pair(number, records[number], records[kept]))
    for number in chosen.keys() & stay:
        left.append(LeftAlone(chosen.pop(number).image.path, "is kept instead of another"))
    return list(chosen.values()), sorted(left, key=lambda each: each.path)


def _number(snapshot: Snapshot, image: Stored) -> int:
    if not isinstance(image, str | os.PathLike):
        return operator.index(image)
    path = absolute(os.fspath(image))
    number = snapshot.id_at(path)
    if number is None:
        raise ImageNotFound(path, "is not stored; ingest it first")
    return number


def _acted(
    directory: Directory,
    deed: _Deed,
    pairs: Sequence[Pair],
    left: list[LeftAlone],
    on_progress: Progress | None,
    *,
    dry_run: bool,
) -> ChangeReport:
    if not dry_run:
        moved = _settle_earlier(directory, deed.folder)
        pairs = [pair for pair in pairs if pair.number not in moved]
    run = _Run(directory, deed, left)
    with run.closing:
        try:
            for number, pair in enumerate(pairs, start=1):
                run.try_one(number, pair, dry_run=dry_run)
                if number % _AT_ONCE == 0:
                    run.follow()
                if on_progress:
                    on_progress(number, len(pairs))
        finally:
            run.follow()
    manifest = str(run.manifest.path) if run.manifest else ""
    return ChangeReport(tuple(run.changed), tuple(left), manifest)


class _Run:
    """One run over pairs; the manifest is there from the first deed on."""

    def __init__(self, directory: Directory, deed: _Deed, left: list[LeftAlone]) -> None:
        self.changed: list[FileChange] = []
        self.manifest: Manifest | None = None
        self.closing = ExitStack()
        self._directory = directory
        self._deed = deed
        self._left = left
        self._contents = Contents()
        self._to_follow: list[Pair] = []

    def try_one(self, number: int, pair: Pair, *, dry_run: bool) -> None:
        """Act upon a file, or note why it is left alone."""
        path, deed = pair.image.path, self._deed
        try:
            seen = compared(pair) if dry_run else self._contents.compared(pair)
            deed.check(pair, seen)
            change = FileChange(path, deed.target(path), pair.kept.path, pair.image.size)
            if not dry_run:
                self._do(number, pair, change.target, seen)
        except ImageError as error:
            self._left.append(LeftAlone(path, error.reason))
        except OSError as error:
            self._left.append(LeftAlone(path, unavailable(path, error).reason))
        else:
            self.changed.append(change)

    def follow(self) -> None:
        """Let the catalog follow."""
        if self._to_follow:
            self._deed.follow(self._to_follow)
        self._to_follow = []

    def _do(self, number: int, pair: Pair, target: str, seen: os.stat_result) -> None:
        """Act upon a file; raise OSError or :class:`ImageError` if it is at its path still."""
        if self.manifest is None:
            manifest = _begun(self._directory, self._deed)
            self.manifest = self.closing.enter_context(manifest)
        manifest, image, act = self.manifest, pair.image, self._deed.act
        facts = image.size, image.mtime_ns, image.sha256, BEGUN[act]
        entry = Entry(number, image.path, target, pair.kept.path, *facts)
        manifest.begin(entry)
        try:
            self._deed.do(manifest, entry, seen)
        except (OSError, ImageError) as error:
            settle_entry(manifest, entry, str(error))
            if manifest.entries[number].state != DONE[act]:
                raise
        else:
            manifest.note(number, DONE[act])
        self._to_follow.append(pair)


def _begun(directory: Directory, deed: _Deed) -> Manifest:
    try:
        make_folder(str(deed.folder))
    except OSError as error:
        raise OutputError(f"{deed.folder}: cannot be made: {error.strerror}") from error
    return Manifest.create(deed.folder, deed.act, directory.path)


def _settle_earlier(directory: Directory, folder: Path) -> set[int]:
    """End what earlier runs were killed in; forget what they moved away, and return the ids."""
    moved = set[int]()
    for path in manifests(folder):
        try:
            with Manifest.open(path) as manifest:
                if manifest.header.is_of(directory.path):  # nobody else is at work with it
                    settle(manifest)
                    moved |= _forget_moved(directory, manifest.entries.values())
        except ManifestError as error:
            _LOG.debug("not settled: %s", error)
    return moved


def _forget_moved(directory: Directory, entries: Iterable[Entry]) -> set[int]:
    moved = {entry.path: entry.sha256 for entry in entries if entry.state == "moved"}
    gone = {number for number, image in _stored(directory, moved) if is_gone(image.path)}
    if gone:
        directory.catalog.forget(sorted(gone), (), ())
    return gone
