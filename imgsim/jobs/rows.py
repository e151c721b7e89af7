"""What is exported: the stored embeddings, or the neighbours of each image."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from imgsim.cluster_options import MilvusSettings
from imgsim.directory import Directory
from imgsim.index.distance import Block
from imgsim.jobs.neighbours import NeighbourLists, paths_of
from imgsim.jobs.parts import write_parts
from imgsim.milvus import Milvus
from imgsim.output.export import Embeddings, write_neighbours
from imgsim.output.part_files import BucketFiles, FolderFiles
from imgsim.output.target import NEIGHBOURS, check_target
from imgsim.records import state_of
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


def write_lists(lists: NeighbourLists, on_progress: Progress | None, target: str) -> int:
    """Write lists of neighbours to a file, or in parts; return the row count."""
    if "://" in target:
        return write_parts(lists, on_progress, BucketFiles.at(target))
    path = Path(target)
    check_target(path, NEIGHBOURS, folders=True)
    if not path.suffix:
        return write_parts(lists, on_progress, FolderFiles(path))
    with lists.directory.catalog.snapshot() as snapshot:
        longest = snapshot.longest_path()
    return write_neighbours(path, lists(on_progress), longest)


def fill_milvus(
    directory: Directory, settings: MilvusSettings, on_progress: Progress | None
) -> int:
    """Let a Milvus server have all embeddings, with ids and paths; return how many there are."""
    here = replace(directory, workers=None, milvus=None)
    with here.reading() as snapshot, here.gallery(snapshot) as gallery:
        total = len(gallery)

        def blocks() -> Iterator[tuple[Block, list[str]]]:
            done = 0
            for ids, rows in gallery.blocks():
                names = paths_of(snapshot, ids.tolist())
                yield (ids, rows), [names[number] for number in ids.tolist()]
                done += len(ids)
                if on_progress is not None:
                    on_progress(done, total)

        with closing(Milvus(settings, directory.path, state_of(snapshot.segment_rows()))) as server:
            server.fill(gallery.dim, blocks())
    return total
