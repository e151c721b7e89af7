"""What curation finds, as rows of a table and as sections of a page."""

from collections.abc import Iterable, Iterator, Sequence

from imgsim.findings import (
    ClusterReport,
    DuplicateGroup,
    DuplicateMember,
    Leak,
    Mislabelled,
    Outlier,
    Pick,
)
from imgsim.output.listing import Row
from imgsim.output.sections import Card, Section

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

OUTLIER_COLUMNS = {
    "rank": "int64",
    "image_id": "int64",
    "path": "string",
    "distance": "float64",
    "deviations": "float64",
    "look": "string",
}
LABEL_COLUMNS = {
    "rank": "int64",
    "path": "string",
    "label": "string",
    "proposed": "string",
    "probability": "float64",
}
SAMPLE_COLUMNS = {"rank": "int64", "image_id": "int64", "path": "string", "radius": "float64"}
CLUSTER_COLUMNS = {
    "cluster": "int64",
    "images": "int64",
    "place": "int64",
    "image_id": "int64",
    "path": "string",
    "distance": "float64",
}

_SHOWN = 12  # pictures of a cluster


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


def outlier_rows(outliers: Iterable[Outlier]) -> Iterator[Row]:
    """Yield a row of OUTLIER_COLUMNS for each outlier."""
    for each in outliers:
        yield each.rank, each.id, each.path, each.distance, each.deviations, each.look


def outlier_sections(outliers: Iterable[Outlier]) -> Iterator[Section]:
    """Yield a section for each outlier, outlined, with its nearest others."""
    for each in outliers:
        look = "" if each.look == "usual" else f" · {each.look}"
        label = f"{each.distance:.4g} · {each.deviations:.1f} deviations{look}"
        others = (Card(match.path, f"{match.distance:.4g}") for match in each.matches)
        yield Section((Card(each.path, label, "query"), *others))


def label_rows(found: Iterable[Mislabelled]) -> Iterator[Row]:
    """Yield a row of LABEL_COLUMNS for each image."""
    for each in found:
        yield each.rank, each.path, each.label, each.proposed, each.probability


def label_sections(found: Iterable[Mislabelled]) -> Iterator[Section]:
    """Yield a section for each image, outlined, with its nearest others and their labels."""
    for each in found:
        label = f"{each.label}, rather {each.proposed}: {each.probability:.3f}"
        others = map(Card, each.nearest, each.labels)
        yield Section((Card(each.path, label, "query"), *others))


def sample_rows(picks: Iterable[Pick]) -> Iterator[Row]:
    """Yield a row of SAMPLE_COLUMNS for each pick."""
    for each in picks:
        yield each.rank, each.id, each.path, each.radius


def sample_sections(picks: Iterable[Pick]) -> Iterator[Section]:
    """Yield one section of all picks."""
    yield Section(tuple(Card(each.path, f"{each.rank:,}") for each in picks))


def cluster_rows(report: ClusterReport) -> Iterator[Row]:
    """Yield a row of CLUSTER_COLUMNS for each image; those in no cluster come last."""
    for each in report.clusters:
        for place, member in enumerate(each.members, start=1):
            where = each.number, len(each.members), place
            yield *where, member.id, member.path, member.distance
    for image in report.apart:
        yield None, None, None, image.id, image.path, None


def cluster_sections(report: ClusterReport) -> Iterator[Section]:
    """Yield a section for each cluster: some of its images, the representative outlined."""
    for each in report.clusters:
        step = -(-len(each.members) // _SHOWN)
        cards = [Card(member.path, f"{member.distance:.4g}") for member in each.members[::step]]
        cards[0] = Card(cards[0].path, cards[0].label, "query")
        heading = f"{each.number} · {len(each.members):,} images · {each.share:.1%}"
        yield Section(tuple(cards), heading)
