"""The curation of a collection: the one place where its parts meet."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from imgsim.catalog.judgements import Pair, in_order
from imgsim.curation.duplicates import find_duplicates
from imgsim.curation.judged import contents_of, judged_pairs
from imgsim.curation.leaks import find_leaks
from imgsim.curation.radius import learn_radius
from imgsim.curation_options import FALSE_ALARMS, DuplicateSettings
from imgsim.directory import Directory
from imgsim.errors import CollectionError
from imgsim.findings import DuplicateReport, JudgedPair, LeakReport, LearntRadius, RadiusCurves
from imgsim.options import PathLike
from imgsim.results import Progress


class Curation:
    """What the neighbours of the stored images are good for.

    Nothing changes a file of the user unless its name says so.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def learn_radius(
        self, false_alarms: float = FALSE_ALARMS, on_progress: Progress | None = None
    ) -> RadiusCurves:
        """Learn how near duplicates are from a sample of the stored images, and remember it.

        While another process writes to the collection it is not remembered. Raises
        :class:`RadiusUnknown` if there are too few images.
        """
        DuplicateSettings(false_alarms=false_alarms)
        with self._directory.catalog.snapshot() as snapshot:
            encoder = snapshot.encoder()
        curves = learn_radius(self._directory, false_alarms, on_progress)
        with suppress(CollectionError), self._directory.writing():
            self._directory.catalog.commit_radius(encoder, curves.learnt)
            return replace(curves, remembered=True)
        return curves

    def radius(self, false_alarms: float = FALSE_ALARMS) -> LearntRadius | None:
        """Return the radius that was learnt for so many false alarms.

        None if there is none, or the collection has more than twice as many images now.
        """
        with self._directory.catalog.snapshot() as snapshot:
            learnt, images = snapshot.radius(), snapshot.count_images()
        if learnt is None or learnt.false_alarms != false_alarms or images > 2 * learnt.images:
            return None
        return learnt

    def duplicates(
        self, settings: DuplicateSettings | None = None, on_progress: Progress | None = None
    ) -> DuplicateReport:
        """Return groups of near-duplicates, in each the image first that is kept.

        The radius is learnt first if it has to be; see :meth:`learn_radius`.
        """
        settings = settings or DuplicateSettings()
        radius = self._reach(settings, on_progress)
        return find_duplicates(self._directory, settings, radius, on_progress)

    def leaks(
        self,
        source: PathLike,
        target: PathLike,
        settings: DuplicateSettings | None = None,
        on_progress: Progress | None = None,
    ) -> LeakReport:
        """Return the images at and under ``target`` that have a duplicate at or under ``source``.

        Those of the source must be stored. Raises :class:`ImageNotFound` if some are not, or if
        there are none in one of the two; see :meth:`duplicates` for the radius.
        """
        settings = settings or DuplicateSettings()
        radius = self._reach(settings, on_progress)
        both = os.fspath(source), os.fspath(target)
        return find_leaks(self._directory, *both, settings, radius, on_progress)

    def ignore(self, one: PathLike, other: PathLike) -> bool:
        """Remember that two stored images are no duplicates; say whether that is new.

        It goes by their content. Raises :class:`ImageNotFound` if one is not stored, and ValueError
        if they have the same content.
        """
        pair = self._pair(one, other)
        with self._directory.writing():
            return bool(self._directory.catalog.commit_judged([pair]))

    def unignore(self, one: PathLike, other: PathLike) -> bool:
        """Forget what :meth:`ignore` has remembered; say whether there was anything."""
        pair = self._pair(one, other)
        with self._directory.writing():
            return bool(self._directory.catalog.forget_judged([pair]))

    def ignored(self) -> Sequence[JudgedPair]:
        """Return the pairs that are no duplicates, by content."""
        with self._directory.catalog.snapshot() as snapshot:
            return judged_pairs(snapshot)

    def _pair(self, one: PathLike, other: PathLike) -> Pair:
        with self._directory.catalog.snapshot() as snapshot:
            contents = contents_of(snapshot, [os.fspath(one), os.fspath(other)])
        if contents[0] == contents[1]:
            raise ValueError(f"{os.fspath(other)}: has the same content as {os.fspath(one)}")
        return in_order(*contents)

    def _reach(self, settings: DuplicateSettings, on_progress: Progress | None) -> float:
        if settings.radius is not None:
            return settings.radius
        known = self.radius(settings.false_alarms)
        return (known or self.learn_radius(settings.false_alarms, on_progress).learnt).radius
