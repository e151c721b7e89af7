"""The curation of a collection: the one place where its parts meet."""

import os
from dataclasses import replace
from pathlib import Path

from imgsim.curation.clusters import clusters
from imgsim.curation.clusters import typical as picked_typical
from imgsim.curation.mislabelled import admitted, mislabelled
from imgsim.curation.outliers import outliers
from imgsim.curation.rows import rows_by_path
from imgsim.curation.sample import covering
from imgsim.directory import Directory
from imgsim.files import absolute
from imgsim.findings import ClusterReport, LabelReport, OutlierReport, Sample
from imgsim.images.scan import Notes, find
from imgsim.options import (
    EvaluationSettings,
    PathLike,
    Paths,
    SearchFilter,
    checked_count,
    listed,
)
from imgsim.output.chosen import Gathering, gather
from imgsim.results import Progress, Refusal

_ALL = SearchFilter()


class Curation:
    """What the neighbours of the stored images are good for.

    Nothing changes a file of the user unless its name says so. ``within`` restricts which images
    count; its folders do, and nothing else of it.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

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
        the groups that k-means finds. See :mod:`imgsim.curation.sample`.
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
        one, or that of a name. See :mod:`imgsim.curation.mislabelled` for what the probability is
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
