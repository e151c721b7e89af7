"""A map of images: their exact neighbours, and positions that keep these together."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from imgsim.curation.graph import neighbour_graph
from imgsim.curation.projection import (
    NEAREST,
    arranged,
    principal_positions,
    refuse_without,
    share_kept,
)
from imgsim.directory import Directory
from imgsim.findings import ImageMap, MapMethod, StageProgress
from imgsim.jobs.neighbours import paths_of
from imgsim.options import SearchFilter
from imgsim.output.export import write_positions
from imgsim.output.map_figure import draw_map
from imgsim.output.map_page import Colouring, write_map_page
from imgsim.output.target import MAPS, PAGES, check_target


def map_images(
    directory: Directory,
    within: SearchFilter,
    method: MapMethod,
    seed: int,
    on_progress: StageProgress,
) -> ImageMap:
    """Return a map of the images in the folders that ``within`` leaves."""
    refuse_without(method)
    within = SearchFilter(under=within.under, not_under=within.not_under)
    with directory.reading() as snapshot, directory.gallery(snapshot, within) as gallery:
        graph = neighbour_graph(gallery, NEAREST, partial(on_progress, "neighbours"))
        names = paths_of(snapshot, graph.ids.tolist())
        start = principal_positions(gallery, seed)
    paths = [names[number] for number in graph.ids.tolist()]
    order = np.array(sorted(range(len(paths)), key=lambda row: os.fsencode(paths[row])), np.int64)
    graph = graph.ordered(order)
    positions = arranged(start[order], graph.nearest, method, seed, partial(on_progress, "layout"))
    return ImageMap(
        ids=graph.ids,
        paths=tuple(paths[row] for row in order.tolist()),
        positions=positions,
        nearest=graph.nearest,
        distances=graph.distances,
        kept=share_kept(positions, graph.nearest, seed),
        method=method,
    )


def export_map(
    path: Path,
    found: ImageMap,
    colours: Mapping[str, Mapping[str, str]],
    on_progress: StageProgress,
    *,
    served: bool = False,
) -> int:
    """Write a map in the format that the name of the file says; return how many pictures lack.

    A page that is ``served`` has its pictures from the server.
    """
    check_target(path, MAPS)
    if path.suffix.lower() in PAGES:
        colourings = [*_colourings(found.paths, colours)]
        return write_map_page(path, found, colourings, on_progress, served=served)
    if path.suffix.lower() == ".png":
        return draw_map(path, found, on_progress)
    write_positions(path, found)
    return 0


def _colourings(
    paths: Sequence[str], colours: Mapping[str, Mapping[str, str]]
) -> Iterator[Colouring]:
    """Yield those of the user, and the folders, named from where they part."""
    for name, labels in colours.items():
        yield Colouring(name, [labels.get(path, "") for path in paths])
    folders = [os.path.dirname(path) for path in paths]
    common = os.path.commonpath(folders) if folders else ""
    yield Colouring("folder", [os.path.relpath(folder, common) for folder in folders])
