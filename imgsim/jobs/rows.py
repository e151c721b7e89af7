"""What is exported: the stored embeddings, or the neighbours of each image, in a file."""

from collections.abc import Callable
from pathlib import Path

from imgsim.directory import Directory
from imgsim.jobs.neighbours import NeighbourLists, paths_of
from imgsim.output.export import Embeddings, write_neighbours
from imgsim.results import Progress


def write_rows(directory: Directory, write: Callable[[Path, Embeddings], None], path: Path) -> int:
    """Let ``write`` write all rows to a file; return how many there are."""
    with directory.reading() as snapshot, directory.gallery(snapshot) as gallery:
        blocks = (
            (ids, [names[i] for i in ids.tolist()], rows)
            for ids, rows in gallery.blocks()
            for names in (paths_of(snapshot, ids.tolist()),)
        )
        n = len(gallery)
        write(path, Embeddings(blocks, n, gallery.dim, snapshot.longest_path()))
    return n


def write_lists(lists: NeighbourLists, on_progress: Progress | None, path: Path) -> int:
    """Write lists of neighbours to a file; return how many rows it has."""
    with lists.directory.catalog.snapshot() as snapshot:
        longest = snapshot.longest_path()
    return write_neighbours(path, lists(on_progress), longest)
