"""Duplicates and leaks as rows of a table, and as sections of a page."""

from collections.abc import Iterable, Iterator, Sequence

from imgsim.findings import DuplicateGroup, DuplicateMember, Leak
from imgsim.output.html import Card, Section
from imgsim.output.listing import Row

DUPLICATE_COLUMNS = {
    "group": "int64",
    "kind": "string",
    "image_id": "int64",
    "path": "string",
    "distance": "float64",
    "width": "int32",
    "height": "int32",
    "bytes": "int64",
    "format": "string",
    "modified": "float64",
}
LEAK_COLUMNS = {"path": "string", "kind": "string", "distance": "float64", "source": "string"}


def duplicate_rows(groups: Sequence[DuplicateGroup]) -> Iterator[Row]:
    """Yield a row of DUPLICATE_COLUMNS for each member; groups count from 1."""
    for number, group in enumerate(groups, start=1):
        for each in group.members:
            facts = each.width, each.height, each.bytes, each.format, each.modified
            yield number, each.kind, each.id, each.path, each.distance, *facts


def duplicate_sections(groups: Sequence[DuplicateGroup]) -> list[Section]:
    """Return a section for each group; the image that is kept is outlined."""
    return [
        Section(tuple(map(_card, group.members)), f"{number}: {len(group.members)} images")
        for number, group in enumerate(groups, start=1)
    ]


def _card(member: DuplicateMember) -> Card:
    size = f"{member.bytes:,} bytes"
    if member.kind == "kept":
        return Card(member.path, f"kept · {size}", "query")
    return Card(member.path, f"{member.kind} · {member.distance:.4g} · {size}")


def leak_rows(leaks: Iterable[Leak]) -> Iterator[Row]:
    """Yield a row of LEAK_COLUMNS for each leak."""
    for leak in leaks:
        yield leak.path, leak.kind, leak.distance, leak.source


def leak_sections(leaks: Iterable[Leak]) -> list[Section]:
    """Return a section for each leak: the image, outlined, and where it is from."""
    return [
        Section(
            (
                Card(leak.path, "leaked", "query"),
                Card(leak.source, f"{leak.kind} · {leak.distance:.4g}"),
            )
        )
        for leak in leaks
    ]
