"""The ingest pipeline: scan, compare, decode, encode, store."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, tee

import numpy as np

from imgsim.catalog.snapshot import Snapshot
from imgsim.directory import Directory
from imgsim.encoder.embed import EmbeddedImage
from imgsim.errors import ClusterError, ImageError, ImageUnavailable, ImgsimError
from imgsim.images.decode import is_other_file, is_outdated
from imgsim.images.roots import Roots, State, is_gone, is_same_file
from imgsim.images.scan import Notes
from imgsim.jobs.batch import Batch
from imgsim.jobs.compact import tidy, what_pays
from imgsim.jobs.contents import Contents, KnownContent
from imgsim.options import BatchLimits, DecodeRules, IngestSettings
from imgsim.records import ImageFile, ImageRecord, StoredImage
from imgsim.results import IngestReport, Progress, Refusal

_LOG = logging.getLogger(__name__)

_Files = Iterable[ImageFile | ImageError]
_Find = Callable[..., _Files]
_Result = EmbeddedImage | KnownContent | ImageError


def ingest(
    directory: Directory,
    roots: Sequence[str],
    find: _Find,
    settings: IngestSettings,
    on_progress: Progress | None,
) -> IngestReport:
    """Store what is new or changed of the files at and under ``roots``.

    ``find`` finds them, and takes ``notes`` on its way.
    """
    catalog, notes = directory.catalog, Notes()
    with directory.writing():
        total = sum(1 for _ in find()) if on_progress and settings.count_first else 0
        directory.sweep()
        directory.build_tables()
        catalog.commit_roots([path for path in roots if os.path.isdir(path)])
        run = _Ingest(directory, settings, notes, lambda n: on_progress and on_progress(n, total))
        report = run.run(find(notes=notes))
        with catalog.snapshot() as snapshot:
            not_found = snapshot.count_under(roots) - report.stored
            hard_linked = _hard_linked(snapshot, notes)
        warnings = []
        try:
            tidy(directory, what_pays)
        except ImgsimError as error:
            warnings.append(str(error))
    return replace(report, not_found=not_found, hard_linked=hard_linked, warnings=tuple(warnings))


def preview(directory: Directory, find: _Find, settings: IngestSettings) -> IngestReport:
    """Count what an ingest of the files would do, without decoding anything."""
    notes = Notes()
    return _Ingest(directory, settings, notes).preview(find(notes=notes))


def _hard_linked(snapshot: Snapshot, notes: Notes) -> int:
    """Return how many stored images are further names of a file that was found."""
    stored = snapshot.stamps(list(notes.inodes))
    return len(stored) - len({notes.inodes[path] for path in stored})


class _IngestBatch(Batch):
    """Results that are not committed yet."""

    def __init__(self, limits: BatchLimits, after: Batch | None = None) -> None:
        super().__init__(limits, after)
        self.stamps: list[tuple[int, ImageRecord]] = []
        self.refused: list[tuple[ImageFile, Refusal]] = []
        self.counts: Counter[str] = Counter()


class _Ingest:
    """One run over the files that a scan found."""

    def __init__(
        self,
        directory: Directory,
        settings: IngestSettings,
        notes: Notes,
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Prepare a run; ``on_progress`` is told how many files are done.

        ``notes`` are those that the search takes.
        """
        self._catalog = directory.catalog
        self._store = directory.store
        accepts = settings.damaged == "accept"
        self._rules = DecodeRules(settings.max_pixels, accept_damaged=accepts)
        self._contents = Contents(directory.load_encoder(), directory, self._rules)
        self._settings = settings
        self._on_progress = on_progress
        with self._catalog.snapshot() as snapshot:
            self._roots = Roots(snapshot.roots())
        self._notes = notes
        self._batch = _IngestBatch(self._settings.batch)
        self._counts: Counter[str] = Counter()
        self._damaged = 0
        self._moved: set[int] = set()
        self._refused: list[Refusal] = []
        self._unreachable: list[Refusal] = []

    @property
    def report(self) -> IngestReport:
        """Return what is done so far; an image counts when its batch is committed."""
        return IngestReport(
            added=self._counts["added"],
            changed=self._counts["changed"],
            moved=self._counts["moved"],
            unchanged=self._counts["unchanged"],
            linked=self._counts["linked"],
            skipped=self._counts["skipped"],
            damaged=self._damaged,
            refused=tuple(self._refused),
            unreachable=tuple(self._unreachable),
            excluded=dict(self._notes.excluded),
        )

    def preview(self, found: _Files) -> IngestReport:
        """Count what a run would do, without decoding anything."""
        for file, known, result in filter(None, self._tried(found, self._contents.known)):
            if isinstance(result, ImageError):
                self._refuse(file, result, known=known)
            elif isinstance(result, KnownContent):
                self._counts[self._place(file, result.stored, known=known)[0]] += 1
        return self.report

    def run(self, found: _Files) -> IngestReport:
        """Store what is new or changed.

        On an interrupt (``KeyboardInterrupt``), or where a cluster fails, what is encoded is
        committed before it goes on up.
        """
        told = False
        try:
            for tried in self._tried(found, self._contents.of):
                if tried is not None:
                    self._keep(*tried)
                    if not told:
                        _LOG.debug("the first file is done")
                        told = True
                if self._batch.is_due(self._batch.counts.total()):
                    self._commit()
                self._on_progress(self._done())
            self._commit()
        except (KeyboardInterrupt, ClusterError):
            self._commit()
            raise
        return self.report

    def _tried(
        self, found: _Files, results_of: Callable[[Iterable[str | None]], Iterator[_Result | None]]
    ) -> Iterator[tuple[ImageFile, bool, _Result] | None]:
        """Yield the files to try, whether another content of each is stored, and the result.

        None comes now and then, so that the caller need not wait while there is nothing new.
        """
        files, ahead = tee(self._new_files(found))
        paths = (None if item is None else item[0].path for item in ahead)
        for item, result in zip(files, results_of(paths), strict=True):
            yield None if item is None or result is None else (*item, result)

    def _new_files(self, found: _Files) -> Iterator[tuple[ImageFile, bool] | None]:
        """Yield the files to try, and whether the file is stored, perhaps with other content.

        None comes after each chunk of files that were compared.
        """
        remaining = iter(found)
        while chunk := list(islice(remaining, self._settings.batch.compared)):
            files = [item for item in chunk if isinstance(item, ImageFile)]
            paths = [file.path for file in files]
            for item in chunk:
                if isinstance(item, ImageError):
                    self._unreachable.append(Refusal(item.path, item.reason))
            with self._catalog.snapshot() as snapshot:
                stored, refused = snapshot.stamps(paths), snapshot.refusals(paths)
                linked = self._linked(snapshot, [f for f in files if f.path not in stored])
            for file in files:
                stamp, known = (file.size, file.mtime_ns), file.path in stored
                if known and stored[file.path] == stamp and not self._settings.rehash:
                    self._counts["unchanged"] += 1
                elif refused.get(file.path, ())[:2] == stamp and not self._retries(
                    reason := refused[file.path][2]
                ):
                    self._refused.append(Refusal(file.path, reason))
                elif file.path in linked:
                    self._counts["linked"] += 1
                else:
                    yield file, known
            yield None

    def _retries(self, reason: str) -> bool:
        """Say whether to try a file again that was refused for this reason."""
        again = self._settings.retry_refused or self._rules.accept_damaged
        return again or is_outdated(reason, self._rules)

    @staticmethod
    def _linked(snapshot: Snapshot, files: Sequence[ImageFile]) -> set[str]:
        """Return the paths of those files that are stored under their own names."""
        real = {file.path: os.path.realpath(file.path) for file in files}
        stored = snapshot.stamps([own for path, own in real.items() if own != path])
        return {f.path for f in files if stored.get(real[f.path]) == (f.size, f.mtime_ns)}

    def _place(
        self, file: ImageFile, stored: Iterable[StoredImage], *, known: bool
    ) -> tuple[str, int | None]:
        """Return what a file counts as, and the id of the stored image that it is, if it is one."""
        free = [image for image in stored if image.id not in self._moved]
        for image in free:
            if image.path == file.path:
                return "unchanged", image.id
            if not known and is_same_file(image.path, file.path):
                return "linked", None
        for image in free:
            if is_gone(image.path) and not self._is_unmounted(image.path):
                self._moved.add(image.id)
                return "moved", image.id
        return ("changed" if known else "added"), None

    def _is_unmounted(self, path: str) -> bool:
        return self._roots.state(self._roots.of(path)) is State.empty

    def _keep(self, file: ImageFile, known: bool, found: _Result) -> None:
        if isinstance(found, ImageError):
            self._refuse(file, found, known=known)
            return
        stored = found.stored if isinstance(found, KnownContent) else ()
        kind, image_id = self._place(file, stored, known=known)
        if image_id is not None:
            self._batch.stamps.append((image_id, found.record))
        elif kind != "linked":
            try:
                new = found if isinstance(found, EmbeddedImage) else self._contents.copied(found)
            except ImageError as error:
                self._refuse(file, error, known=known)
                return
            self._batch.images.append(new)
        self._batch.counts[kind] += 1

    def _refuse(self, file: ImageFile, error: ImageError, *, known: bool) -> None:
        refusal = Refusal(file.path, error.reason)
        if isinstance(error, ImageUnavailable):  # that can change while the file does not
            self._unreachable.append(refusal)
        elif is_other_file(error, claimed=file.claimed or known):
            self._counts["skipped"] += 1
        else:
            self._refused.append(refusal)
            self._batch.refused.append((file, refusal))

    def _done(self) -> int:
        counts = self._counts.total() + self._batch.counts.total()
        return counts + len(self._refused) + len(self._unreachable)

    def _commit(self) -> None:
        """Commit the batch; an interrupt may come at any point, and then it is done once more."""
        batch, segment, images = self._batch, None, dict[int, ImageRecord]()
        if batch.images:
            with self._catalog.snapshot() as snapshot:
                first = snapshot.next_id()
            images = {first + row: image.record for row, image in enumerate(batch.images)}
            segment = batch.write(self._store, np.array(list(images)))
        self._catalog.commit_roots(sorted(self._notes.drives))
        self._catalog.commit_batch(segment, images, batch.stamps, batch.refused)
        _LOG.debug("committed %d images, %d stamps", len(images), len(batch.stamps))
        self._counts += batch.counts
        self._damaged += sum(image.record.damaged for image in batch.images)
        self._batch = _IngestBatch(self._settings.batch, batch)
        self._contents.forget()
