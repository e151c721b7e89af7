"""The curation of a collection: the one place where its parts meet."""

import os
from collections.abc import Mapping
from pathlib import Path

from imgsim.curation.map import export_map, map_images
from imgsim.directory import Directory
from imgsim.evaluation.labels import table_labels
from imgsim.files import absolute
from imgsim.findings import ImageMap, MapMethod, StageProgress
from imgsim.options import PathLike, SearchFilter


def _silent(stage: str, done: int, total: int) -> None:
    """Be the progress that nobody listens to."""


class Curation:
    """What the neighbours of the stored images are good for.

    Nothing changes a file of the user unless its name says so.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

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
