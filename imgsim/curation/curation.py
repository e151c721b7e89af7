"""The curation of a collection: the one place where its parts meet."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from imgsim.catalog.judgements import Pair, in_order
from imgsim.curation import acting, restore
from imgsim.curation.clusters import clusters
from imgsim.curation.clusters import typical as picked_typical
from imgsim.curation.duplicates import find_duplicates
from imgsim.curation.judged import contents_of, judged_pairs
from imgsim.curation.leaks import find_leaks
from imgsim.curation.map import export_map, map_images
from imgsim.curation.mislabelled import admitted, mislabelled
from imgsim.curation.outliers import outliers
from imgsim.curation.radius import learn_radius
from imgsim.curation.rows import rows_by_path
from imgsim.curation.sample import covering
from imgsim.curation_options import FALSE_ALARMS, DuplicateSettings
from imgsim.directory import Directory
from imgsim.errors import CollectionError
from imgsim.evaluation.labels import table_labels
from imgsim.files import absolute
from imgsim.findings import (
    ChangeReport,
    ClusterReport,
    DuplicateReport,
    ImageMap,
    JudgedPair,
    LabelReport,
    LeakReport,
    LearntRadius,
    MapMethod,
    OutlierReport,
    RadiusCurves,
    RestoreReport,
    Sample,
    StageProgress,
)
from imgsim.images.scan import Notes, find
from imgsim.options import (
    EvaluationSettings,
    PathLike,
    Paths,
    SearchFilter,
    Stored,
    checked_count,
    listed,
)
from imgsim.output.chosen import Gathering, gather
from imgsim.results import Progress, Refusal

_ALL = SearchFilter()


def _silent(stage: str, done: int, total: int) -> None:
    """Be the progress that nobody listens to."""


class Curation:
    """What the neighbours of the stored images are good for.

    Nothing changes a file of the user unless its name says so. ``within`` restricts which images
    count; its folders do, and nothing else of it.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def move(
        self,
        pairs: Iterable[tuple[Stored, Stored]],
        folder: PathLike,
        *,
        dry_run: bool = False,
        on_progress: Progress | None = None,
    ) -> ChangeReport:
        """Move image files into a folder, and forget them; :meth:`restore` brings them back.

        Of each pair of stored images, given by ids or paths, the first is moved and the second is
        kept instead of it. In the folder, which is made if missing, they keep the structure that
        they have below the ingested ones; nothing is replaced. Before each move both files are
        compared with the catalog: size, time and content. A file that was changed, is the same as
        the one kept, or cannot be moved is left alone; so is one that another pair keeps. A
        manifest in the folder says what was done. A ``dry_run`` looks at sizes and times only.

        Raises ValueError and :class:`ImageNotFound` for what is not stored, and
        :class:`OutputError` if the folder cannot be used: it lies in a collection, images in it are
        stored, or the one that it should be in is not there.
        """
        target = os.fspath(folder)
        with self._writing(dry_run=dry_run):
            return acting.move_away(self._directory, pairs, target, on_progress, dry_run=dry_run)

    def hardlink(
        self,
        pairs: Iterable[tuple[Stored, Stored]],
        *,
        dry_run: bool = False,
        on_progress: Progress | None = None,
    ) -> ChangeReport:
        """Replace image files by hard links; :meth:`restore` makes them files of their own again.

        Of each pair, as in :meth:`move`, the first becomes a further name of the second. That needs
        the same content, drive, owner, permissions and extended attributes. The manifest is in the
        collection's folder.
        """
        with self._writing(dry_run=dry_run):
            return acting.hardlink(self._directory, pairs, on_progress, dry_run=dry_run)

    def restore(
        self,
        manifest: PathLike,
        *,
        dry_run: bool = False,
        on_progress: Progress | None = None,
    ) -> RestoreReport:
        """Undo what :meth:`move` or :meth:`hardlink` did, the last file first.

        What is back already stays. So does a file that is in the way of another, and one that was
        changed since. Files that were moved are ingested again. Raises :class:`ManifestError` if
        there is no such manifest.
        """
        path = Path(absolute(os.fspath(manifest)))
        with self._writing(dry_run=dry_run):
            report = restore.restore(self._directory, path, on_progress, dry_run=dry_run)
        return report if dry_run else restore.know_again(self._directory, path, report)

    @contextmanager
    def _writing(self, *, dry_run: bool) -> Iterator[None]:
        with nullcontext() if dry_run else self._directory.writing():
            yield

    def map(
        self,
        within: SearchFilter | None = None,
        method: MapMethod = "fast",
        *,
        seed: int = 0,
        on_progress: StageProgress = _silent,
    ) -> ImageMap:
        """Return positions of the stored images in a plane that keep neighbours together.

        ``method`` is "linear" (two principal directions, at once), "fast" or "good" (t-SNE on the
        exact neighbours); ``seed`` decides what is drawn. Of ``within``, folders count. Raises
        :class:`ExtraMissing` if a method's package is not installed.
        """
        return map_images(self._directory, within or SearchFilter(), method, seed, on_progress)

    def export_map(
        self,
        path: PathLike,
        found: ImageMap,
        colours: Mapping[str, Mapping[str, str]] | None = None,
        on_progress: StageProgress = _silent,
    ) -> int:
        """Write a map as .html, .png or .parquet; return how many pictures are missing in it.

        The page colours images by folder, and by each of ``colours``: their labels by path, under
        the name of what is meant. Raises :class:`OutputError` if a file of this name cannot be
        written.
        """
        return export_map(Path(path), found, colours or {}, on_progress)

    def labels(self, table: PathLike, column: str = "label") -> dict[str, str]:
        """Return the labels in a column of a CSV file by path, for :meth:`export_map`.

        Its column ``path`` has paths, relative to the folder of the file. Raises
        :class:`LabelError`.
        """
        place = absolute(os.fspath(table))
        return table_labels(Path(place), column, str(Path(place).parent))

    def outliers(
        self,
        k: int = 5,
        most: int = 20,
        within: SearchFilter = _ALL,
        on_progress: Progress | None = None,
    ) -> OutlierReport:
        """Return up to ``most`` images whose ``k``-th nearest others are farthest.

        Exact copies do not count as neighbours of each other.
        """
        k, most = checked_count(k, "k"), checked_count(most, "most")
        return outliers(self._directory, k, most, within, on_progress)

    def sample(
        self,
        count: int,
        within: SearchFilter = _ALL,
        on_progress: Progress | None = None,
        *,
        typical: bool = False,
    ) -> Sample:
        """Return ``count`` images that cover all, or with ``typical`` such as most are like.

        The former leave no image far from a pick, and so pick the odd ones; the latter stand for
        the groups that k-means finds. ``imgsim.curation.sample`` says how.
        """
        checked_count(count, "count")
        with rows_by_path(self._directory, within) as rows:
            return picked_typical(rows, count) if typical else covering(rows, count, on_progress)

    def clusters(
        self, count: int | None = None, within: SearchFilter = _ALL, *, dense: bool = False
    ) -> ClusterReport:
        """Return ``count`` groups of images of a kind, by k-means.

        Without ``count`` there are as many as the root of half the images. With ``dense`` the
        groups are the dense regions that HDBSCAN finds, and the images between them are apart.
        Raises ValueError for both, or for more than 50,000 images.
        """
        if count is not None:
            checked_count(count, "count")
            if dense:
                raise ValueError("how many dense groups there are, HDBSCAN says")
        with rows_by_path(self._directory, within) as rows:
            return clusters(rows, count, dense=dense)

    def mislabelled(
        self,
        labelled: PathLike,
        settings: EvaluationSettings | None = None,
        k: int = 30,
        on_progress: Progress | None = None,
        *,
        encoder: str | None = None,
        within: SearchFilter = _ALL,
    ) -> LabelReport:
        """Return the labelled images at and under a path, those first whose labels are most wrong.

        What has which label, ``settings`` say, as for :meth:`Collection.evaluate`; the ``k``
        nearest of an image speak about it. The images need not be stored; ``encoder`` is the active
        one, or that of a name. ``imgsim.curation.mislabelled`` says what the probability is
        of. Raises :class:`LabelError` if the labels match no images, or too few.
        """
        checked_count(k, "k")
        root = absolute(os.fspath(labelled))
        settings, notes = settings or EvaluationSettings(), Notes()
        found = find([root], settings.exclude, str(self._directory.path), notes)
        names = [] if encoder is None else [encoder]
        (loaded,) = self._directory.load_encoders(names).values()
        files = admitted(found, within)
        report = mislabelled(loaded, root, files, settings, k, on_progress)
        return replace(report, excluded=dict(notes.excluded))

    def gather(
        self,
        paths: Paths,
        folder: PathLike,
        how: Gathering = "copy",
        on_progress: Progress | None = None,
    ) -> list[Refusal]:
        """Copy files into a new or empty folder, or link them there; return what failed.

        Raises :class:`OutputError` for another folder. Nothing is overwritten.
        """
        return gather(listed(paths), Path(folder), how, on_progress)

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
