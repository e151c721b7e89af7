"""Groups of near-duplicates among the stored images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.judgements import judged
from imgsim.catalog.snapshot import Snapshot
from imgsim.curation.linkage import Links, groups
from imgsim.curation.members import Between, group_of, in_path_order, unchanged_files
from imgsim.curation.nodes import Nodes, nodes_of
from imgsim.curation.pairs import PairSearch
from imgsim.curation.poses import poses
from imgsim.curation_options import DuplicateSettings
from imgsim.directory import Directory
from imgsim.findings import DuplicateReport
from imgsim.records import ImageRecord
from imgsim.results import Progress


def find_duplicates(
    directory: Directory,
    settings: DuplicateSettings,
    radius: float,
    on_progress: Progress | None = None,
) -> DuplicateReport:
    """Return the groups of images that are within ``radius`` of each other and look the same.

    They are the same whatever the order in which images were stored.
    """
    within = replace(settings.within, radius=radius, no_self=False, distinct=False)
    turned = poses(mirror=settings.mirror, rotate=settings.rotate)
    with directory.reading() as snapshot, directory.gallery(snapshot, within) as gallery:
        blocks = [np.empty(0, np.int64), *(ids for ids, _ in gallery.blocks())]
        ids = np.concatenate(blocks)
        nodes = nodes_of(snapshot, ids, apart=settings.folders == "within")
        encoder = directory.load_encoder(snapshot.encoder())
        by_distance = settings.by_distance
        search = PairSearch(snapshot, gallery, nodes, encoder, turned, by_distance, on_progress)
        links = _admitted(search.links(), nodes, snapshot, settings)
        grouped = _with_copies(groups(links), nodes)
        images = _images(snapshot, nodes, grouped)
    files, left_alone = unchanged_files(images)
    between, found = _between(links, grouped), []
    of_node: dict[int, list[int]] = {}
    for place, file in enumerate(files):
        of_node.setdefault(file.node, []).append(place)
    for members in grouped:
        chosen = [files[place] for node in members for place in of_node.get(node, ())]
        group = group_of(chosen, settings, between) if len(chosen) > 1 else None
        found += [] if group is None else [group]
    return DuplicateReport(in_path_order(found), radius, len(ids), tuple(left_alone))


def _admitted(links: Links, nodes: Nodes, snapshot: Snapshot, settings: DuplicateSettings) -> Links:
    """Return the links that nobody judged to be none, of nodes in one folder if that is wanted."""
    if settings.folders == "within":
        links = links.only(nodes.folders[links.first] == nodes.folders[links.second])
    known = judged(snapshot.connection)
    if not known:
        return links
    contents = [bytes(each) for each in nodes.contents]
    pairs = zip(links.first.tolist(), links.second.tolist(), strict=True)
    kept = [
        tuple(sorted((contents[first], contents[second]))) not in known for first, second in pairs
    ]
    return links.only(np.array(kept, bool))


def _with_copies(grouped: list[list[int]], nodes: Nodes) -> list[list[int]]:
    """Return groups of nodes, and besides nodes of several images that are in none."""
    counts: NDArray[np.int64] = np.bincount(nodes.nodes, minlength=len(nodes.firsts))
    several = set(np.flatnonzero(counts > 1).tolist())
    alone = several.difference(*grouped)
    return grouped + [[node] for node in sorted(alone)]


def _images(
    snapshot: Snapshot, nodes: Nodes, grouped: Sequence[Sequence[int]]
) -> dict[int, tuple[int, ImageRecord]]:
    """Return node and record of the images in groups, by id."""
    ids = nodes.images([node for members in grouped for node in members])
    records = snapshot.records(ids.tolist())
    of = zip(ids.tolist(), nodes.of(ids).tolist(), strict=True)
    return {number: (node, records[number]) for number, node in of}


def _between(links: Links, grouped: Sequence[Sequence[int]]) -> Between:
    """Return what says how far two nodes of a group are from each other."""
    group = {node: number for number, members in enumerate(grouped) for node in members}
    known: dict[tuple[int, int], tuple[float, bool]] = {}
    columns = links.first, links.second, links.distances, links.posed
    for one, other, far, turned in zip(*(column.tolist() for column in columns), strict=True):
        if one in group and group.get(one) == group.get(other):
            known[one, other] = far, turned

    def between(one: int, other: int) -> tuple[float, bool]:
        return (0.0, False) if one == other else known[min(one, other), max(one, other)]

    return between
