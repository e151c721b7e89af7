"""The stored embeddings, with ids and paths, as a file has them."""

from collections.abc import Callable
from pathlib import Path

from imgsim.directory import Directory
from imgsim.jobs.neighbours import paths_of
from imgsim.output.export import Embeddings


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
