"""The curation of a collection: the one place where its parts meet."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from imgsim.curation import acting, restore
from imgsim.directory import Directory
from imgsim.files import absolute
from imgsim.findings import ChangeReport, RestoreReport
from imgsim.options import PathLike, Stored
from imgsim.results import Progress


class Curation:
    """What the neighbours of the stored images are good for.

    Nothing changes a file of the user unless its name says so.
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
