"""Undo what a manifest says was done to files."""

import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from imgsim.curation import links, moves
from imgsim.curation.acting import note_times
from imgsim.curation.manifest import BACK, Entry, Header, Manifest, read
from imgsim.curation.settling import settle, settle_entry
from imgsim.directory import Directory
from imgsim.errors import ImageError, ImgsimError, unavailable
from imgsim.findings import LeftAlone, RestoreReport
from imgsim.images.roots import Roots
from imgsim.images.scan import find
from imgsim.jobs.ingest import ingest
from imgsim.options import STORED_RULES, IngestSettings
from imgsim.results import Progress

_IS_BACK = {"move": moves.is_back, "hardlink": links.is_back}
_UNDO = {"move": moves.bring_back, "hardlink": links.separate}
_SETTINGS = IngestSettings(
    count_first=False, max_pixels=STORED_RULES.max_pixels, damaged="accept"
)  # they were stored before


def restore(
    directory: Directory, path: Path, on_progress: Progress | None, *, dry_run: bool
) -> RestoreReport:
    """Make files as they were, the last one first, and let the catalog know the times of links.

    The caller holds the writer's lock, unless it is a dry run.
    """
    with directory.catalog.snapshot() as snapshot:
        roots = Roots(snapshot.roots())
    with ExitStack() as stack:
        header, entries = read(path)
        manifest: Manifest | None = None
        if not dry_run:
            manifest = stack.enter_context(Manifest.open(path))
            settle(manifest)
            entries = manifest.entries
        run = _Run(header, manifest, roots)
        for done, number in enumerate(reversed(entries), start=1):
            run.try_one(entries[number])
            if on_progress:
                on_progress(done, len(entries))
    if header.act == "hardlink" and not dry_run:
        note_times(directory, run.back)
    return RestoreReport(tuple(run.restored), tuple(run.left))


def know_again(directory: Directory, path: Path, report: RestoreReport) -> RestoreReport:
    """Ingest the files of a manifest that were moved and are back; return the report with that.

    Those that another collection had are not its own.
    """
    header, entries = read(path)
    if header.act != "move":
        return report
    if not header.is_of(directory.path):
        other = f"{header.collection}, which had them, does not know; run `imgsim ingest` with it"
        return replace(report, warnings=(other,)) if report.restored else report
    restored = (entry.path for entry in entries.values() if entry.state == "restored")
    paths = [each for each in restored if os.path.lexists(each)]
    try:
        files = partial(find, paths, (), str(directory.path))
        known = ingest(directory, paths, files, _SETTINGS, None).stored if paths else 0
    except ImgsimError as error:
        return replace(report, warnings=(str(error),))
    return replace(report, known=known)


class _Run:
    """One run over the entries of a manifest; without a manifest to write to, it only looks.

    ``back`` has the contents of all files that are as they were, by path.
    """

    def __init__(self, header: Header, manifest: Manifest | None, roots: Roots) -> None:
        self.restored: list[str] = []
        self.back: dict[str, bytes] = {}
        self.left: list[LeftAlone] = []
        self._act = header.act
        self._manifest = manifest
        self._roots = roots

    def try_one(self, entry: Entry) -> None:
        """Undo what was done to a file, or note why not."""
        try:
            if entry.state != "left" and _IS_BACK[self._act](entry):
                self._note_back(entry)
            if entry.state in {"left", "restored"} or entry.path in self.back:
                return
            self._require_undoable(entry)
            if self._manifest is not None:
                _undo(self._manifest, entry)
        except ImageError as error:
            self.left.append(LeftAlone(entry.path, error.reason))
        except OSError as error:
            self.left.append(LeftAlone(entry.path, unavailable(entry.path, error).reason))
        else:
            self.restored.append(entry.path)
            self.back[entry.path] = entry.sha256

    def _note_back(self, entry: Entry) -> None:
        """Note that a file is as it was, by an earlier run or by hand."""
        self.back[entry.path] = entry.sha256
        if self._manifest is not None and entry.state != "restored":
            self._manifest.note(entry.number, "restored")

    def _require_undoable(self, entry: Entry) -> None:
        if entry.state in BACK and self._manifest is not None:
            raise ImageError(entry.path, "what a run has begun with it cannot be ended now")
        if self._act == "move":
            moves.require_movable(entry, self._roots)
        else:
            links.require_separable(entry)


def _undo(manifest: Manifest, entry: Entry) -> None:
    """Undo what was done to a file; raise OSError or :class:`ImageError` if that failed."""
    manifest.note(entry.number, "restoring")
    try:
        _UNDO[manifest.header.act](manifest, entry)
    except (OSError, ImageError) as error:
        settle_entry(manifest, entry, str(error))
        if manifest.entries[entry.number].state != "restored":
            raise
    else:
        manifest.note(entry.number, "restored")
