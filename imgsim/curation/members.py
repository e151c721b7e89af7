"""The files of a group of duplicates: which is kept, and what the others are beside it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from imgsim.curation_options import DuplicateSettings
from imgsim.errors import ImageError
from imgsim.files import absolute, mtime_ns
from imgsim.findings import DuplicateGroup, DuplicateMember, MemberKind
from imgsim.images.identify import facts_of, identify, open_file
from imgsim.options import listed
from imgsim.parallel import in_threads
from imgsim.records import ImageRecord

Between = Callable[[int, int], tuple[float, bool]]
"""Returns the distance of two nodes, and whether one was mirrored or turned for that."""


@dataclass(frozen=True)
class StoredFile:
    """A stored image whose file is what it was; ``node`` stands for its content."""

    id: int
    node: int
    record: ImageRecord
    inode: tuple[int, int]
    format: str


def unchanged_files(
    images: Mapping[int, tuple[int, ImageRecord]],
) -> tuple[list[StoredFile], list[str]]:
    """Return the files of images, given by id as node and record, and the paths of the others.

    Those are gone, or changed since they were stored, or cannot be read.
    """
    found, others = [], []
    items = [(number, *image) for number, image in images.items()]
    for (_, _, record), result in zip(items, in_threads(_looked_at, items), strict=True):
        if isinstance(result, ImageError):
            others.append(record.path)
        else:
            found.append(result)
    return found, sorted(others)


def _looked_at(item: tuple[int, int, ImageRecord]) -> StoredFile:
    number, node, record = item
    with open_file(record.path) as file:
        facts = facts_of(record.path, file.fileno())
        if (facts.st_size, mtime_ns(facts)) != (record.size, record.mtime_ns):
            raise ImageError(record.path, "was changed since it was stored")
        kind = identify(record.path, file).format or ""
    return StoredFile(number, node, record, (facts.st_dev, facts.st_ino), kind)


def group_of(
    files: Sequence[StoredFile], settings: DuplicateSettings, between: Between
) -> DuplicateGroup | None:
    """Return files as a group with the one that is kept first; None if that stays alone."""
    kept = min(files, key=_order(settings))
    folder = os.path.dirname(kept.record.path)
    across = settings.folders == "across"
    others = [
        each
        for each in files
        if each is not kept and not (across and os.path.dirname(each.record.path) == folder)
    ]
    if not others:
        return None
    names = Counter(each.inode for each in (kept, *others))
    members = [_member(kept, "kept", 0.0)]
    for each in others:
        distance, posed = between(kept.node, each.node)
        kind: MemberKind = "posed" if posed else "near"
        if each.record.sha256 == kept.record.sha256:
            kind = "exact"
        members.append(_member(each, "same file" if names[each.inode] > 1 else kind, distance))
    members[1:] = sorted(members[1:], key=lambda each: (each.distance, os.fsencode(each.path)))
    return DuplicateGroup(tuple(members))


def _member(file: StoredFile, kind: MemberKind, distance: float) -> DuplicateMember:
    return DuplicateMember(
        id=file.id,
        path=file.record.path,
        kind=kind,
        distance=distance,
        width=file.record.width,
        height=file.record.height,
        bytes=file.record.size,
        format=file.format,
        modified=file.record.mtime_ns / 1e9,
    )


def _order(settings: DuplicateSettings) -> Callable[[StoredFile], tuple[object, ...]]:
    """Return by what the file that is kept comes first."""
    folders = [absolute(folder).rstrip("/") + "/" for folder in listed(settings.first_under)]

    def chosen(file: StoredFile) -> float:
        record = file.record
        if settings.keep == "oldest":
            return record.mtime_ns
        if settings.keep == "newest":
            return -record.mtime_ns
        if settings.keep == "shortest-path":
            return len(os.fsencode(record.path))
        return next((i for i, each in enumerate(folders) if record.path.startswith(each)), 1 << 32)

    def order(file: StoredFile) -> tuple[object, ...]:
        record = file.record
        rest = -record.width * record.height, -record.size, os.fsencode(record.path)
        return rest if settings.keep == "largest" else (chosen(file), *rest)

    return order


def in_path_order(groups: Iterable[DuplicateGroup]) -> tuple[DuplicateGroup, ...]:
    """Return groups by the path of the image that is kept."""
    return tuple(sorted(groups, key=lambda group: os.fsencode(group.kept.path)))
