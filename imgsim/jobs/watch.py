"""An ingest that goes on: what is new or changed is stored in batches, as it comes."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from os import fspath

from imgsim.directory import Directory
from imgsim.errors import CollectionLocked, ImageError
from imgsim.images.notices import Notices, Pace
from imgsim.images.scan import Notes, find
from imgsim.jobs.ingest import ingest
from imgsim.options import IngestSettings
from imgsim.records import ImageFile
from imgsim.results import IngestReport, Progress, Refusal

_MANY = 1_000  # files at once, of whose notices the kernel may have dropped some
_LONGEST = 10.0  # seconds that files wait for others to be still
_IDLE = 9  # times as long as a look takes pass before another is due
_LOG = logging.getLogger(__name__)

_Files = Callable[..., Iterable[ImageFile | ImageError]]
_State = tuple[int, int] | str
"""Size and time of a file, or why it cannot be looked at."""


def watch(
    directory: Directory,
    roots: Sequence[str],
    settings: IngestSettings,
    on_progress: Progress | None,
    pace: Pace | None = None,
) -> Iterator[IngestReport]:
    """Ingest, and yield the report; then go on with what is new or changed, and yield reports.

    Nothing is locked between batches; where another writes, a batch waits. ``on_progress`` is told
    of the first ingest. An interrupt while nothing is to be done ends it; any other goes on up.
    """
    pace = pace or Pace()
    with closing(Notices(roots, fspath(directory.path), pace)) as notices:
        yield from _Watch(directory, roots, settings, on_progress).run(notices, pace)


class _Watch:
    """What a watch knows of files: those that are ``coming``, as they were at the last look.

    Those that were ``tried`` and are not in the catalog are not tried again as they are.
    """

    def __init__(
        self,
        directory: Directory,
        roots: Sequence[str],
        settings: IngestSettings,
        on_progress: Progress | None,
    ) -> None:
        self._catalog, self._roots = directory.catalog, roots
        self._find = partial(find, roots, settings.exclude, fspath(directory.path))
        self._ingest = partial(ingest, directory, roots, settings=settings)
        self._on_progress = on_progress
        self._compared = settings.batch.compared
        self._coming: dict[str, _State] = {}
        self._since = 0.0
        self._tried: dict[str, _State] = {}
        self._told: set[Refusal] = set()
        self._is_locked = self._is_doubtful = False

    def run(self, notices: Notices, pace: Pace) -> Iterator[IngestReport]:
        """Yield what is done, until there is an interrupt."""
        while (report := self._stored(self._find, self._on_progress)) is None:
            time.sleep(pace.still)
        self._told.update(report.refused, report.unreachable)
        self._tried.update((refusal.path, refusal.reason) for refusal in report.unreachable)
        yield report
        while True:
            try:
                places = notices.wait()
            except KeyboardInterrupt:
                if self._coming:
                    raise
                return
            if self._is_doubtful and not self._coming:
                places.update(self._roots)
                self._is_doubtful = False
            if places or self._coming:
                began = time.monotonic()
                still = self._look(places)
                notices.postpone(_IDLE * (time.monotonic() - began))
                if still and (report := self._store(still)) is not None:
                    yield report

    def _look(self, places: set[str]) -> dict[str, _State]:
        """Look at some places and at what is coming; return what is to be stored now."""
        for path in places:
            self._tried.pop(path, None)
        found = self._find(only=places | self._coming.keys())
        before, self._coming = self._coming, self._news(map(_state, found))
        if not before:
            self._since = time.monotonic()
        still = {path: at for path, at in self._coming.items() if before.get(path) == at}
        is_late = time.monotonic() - self._since > _LONGEST
        return still if is_late or len(still) == len(self._coming) else {}

    def _news(self, states: Iterable[tuple[str, _State]]) -> dict[str, _State]:
        """Return those of some files that are not as they are in the catalog, or were tried."""
        news, remaining = dict[str, _State](), iter(states)
        while chunk := list(islice(remaining, self._compared)):
            paths = [path for path, _ in chunk]
            with self._catalog.snapshot() as snapshot:
                stored, refused = snapshot.stamps(paths), snapshot.refusals(paths)
            for path, at in chunk:
                known = stored.get(path), refused.get(path, ())[:2], self._tried.get(path)
                if at not in known:
                    news[path] = at
        return news

    def _store(self, still: dict[str, _State]) -> IngestReport | None:
        """Store files that are still; return a report unless nothing is new."""
        if (report := self._stored(partial(self._unchanged, still))) is None:
            return None
        unreachable = {refusal.path for refusal in report.unreachable}
        for path, at in self._news(still.items()).items():
            if isinstance(at, str) or path not in unreachable:
                self._tried[path] = at
        self._coming = {path: at for path, at in self._coming.items() if path not in still}
        self._since = time.monotonic()
        self._is_doubtful |= len(still) > _MANY
        failed = {*report.refused, *report.unreachable}
        untold = failed - self._told
        self._told = {old for old in self._told if old.path not in still} | failed
        if not (report.added or report.changed or report.moved or report.warnings or untold):
            return None
        return replace(report, not_found=0)

    def _unchanged(
        self, still: dict[str, _State], notes: Notes | None = None
    ) -> Iterator[ImageFile | ImageError]:
        for item in self._find(only=still, notes=notes):
            path, at = _state(item)
            if still.get(path) == at:
                yield item

    def _stored(self, files: _Files, on_progress: Progress | None = None) -> IngestReport | None:
        """Ingest files, or return None if another is writing."""
        try:
            report = self._ingest(find=files, on_progress=on_progress)
        except CollectionLocked as error:
            if not self._is_locked:
                _LOG.warning("%s: new files wait: %s", error.path, error.reason.partition(";")[0])
            self._is_locked = True
            return None
        self._is_locked = False
        return report


def _state(item: ImageFile | ImageError) -> tuple[str, _State]:
    """Return the path of a file, and what changes when it does."""
    if isinstance(item, ImageFile):
        return item.path, (item.size, item.mtime_ns)
    return item.path, item.reason
