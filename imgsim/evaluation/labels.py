"""The labels of images: the names of their folders, or a table."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from imgsim.errors import ImageError, LabelError
from imgsim.files import absolute
from imgsim.images.decode import sorted_out
from imgsim.options import EvaluationSettings
from imgsim.records import ImageFile
from imgsim.results import Refusal


@dataclass(frozen=True)
class Labelled:
    """The ``labels`` of images by path; other files are ``unlabelled``, or ``refused``."""

    labels: dict[str, str]
    unlabelled: int
    refused: tuple[Refusal, ...]


def labelled_among(
    found: Iterable[ImageFile | ImageError], root: str, settings: EvaluationSettings
) -> Labelled:
    """Return which of the files found at and under ``root`` have which labels.

    Raises :class:`LabelError` if none has.
    """
    files, refused = sorted_out(found)
    if settings.labels is None:
        labels = folder_labels(files, root)
    else:
        labels = table_labels(Path(settings.labels), settings.column, root)
    known = {path: labels[path] for path in files if path in labels}
    if not known:
        where = settings.labels or f"{root} (a folder for each label)"
        why = "".join(f"; {each.path}: {each.reason}" for each in refused[:1])
        raise LabelError(f"{where}: labels none of {len(files):,} images found{why}")
    return Labelled(known, len(files) - len(known), tuple(refused))


def folder_labels(paths: Iterable[str], root: str) -> dict[str, str]:
    """Return for each path the name of the folder that the file is in; none for ``root`` itself."""
    folders = {path: Path(path).parent for path in paths}
    return {path: folder.name for path, folder in folders.items() if folder != Path(root)}


def table_labels(table: Path, column: str, root: str) -> dict[str, str]:
    """Return the labels in a CSV file by absolute path.

    Its first line names the columns; the column ``path`` has paths relative to the folder ``root``,
    and ``column`` the labels, of which empty ones are none. Raises :class:`LabelError`.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            missing = {"path", column} - set(reader.fieldnames or ())
            if missing:
                raise LabelError(f"{table}: has no column {sorted(missing)[0]!r} in its first line")
            return {
                absolute(str(Path(root) / row["path"])): row[column]
                for row in reader
                if row["path"] and row[column]
            }
    except OSError as error:
        raise LabelError(f"{table}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise LabelError(f"{table}: is not a CSV file: {error}") from error
