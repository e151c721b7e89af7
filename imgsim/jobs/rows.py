"""What is exported: the stored embeddings, or the neighbours of each image."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from imgsim.catalog.snapshot import Snapshot
from imgsim.cluster_options import MilvusSettings
from imgsim.directory import Directory
from imgsim.index.distance import Block
from imgsim.jobs.neighbours import NeighbourLists, paths_of
from imgsim.milvus import Milvus
from imgsim.output.export import Embeddings, write_neighbours
from imgsim.output.parts import Parts
from imgsim.records import state_of
from imgsim.results import ImageNeighbours, Progress

_PART = 16_384  # images whose lists are in a file, or a few more


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
    """Write lists of neighbours to a file, or parts of them to a folder; return the row count."""
    if not path.suffix:
        return _write_parts(lists, on_progress, path)
    with lists.directory.catalog.snapshot() as snapshot:
        longest = snapshot.longest_path()
    return write_neighbours(path, lists(on_progress), longest)


def _write_parts(lists: NeighbourLists, on_progress: Progress | None, folder: Path) -> int:
    with lists.opened() as opened:

        def parts() -> Iterator[Callable[[], Iterator[ImageNeighbours]]]:
            done = 0
            for blocks in _grouped(opened.blocks()):
                yield partial(opened.lists, blocks, on_progress, done)
                done += sum(len(ids) for ids, _ in blocks)

        return Parts(folder, _key(lists, opened.snapshot)).write(parts())


def _grouped(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Yield blocks in groups of at least so many images that a part has."""
    group, count = list[Block](), 0
    for block in blocks:
        group.append(block)
        count += len(block[0])
        if count >= _PART:
            yield group
            group, count = [], 0
    if group:
        yield group


def _key(lists: NeighbourLists, snapshot: Snapshot) -> str:
    """Return 16 digits that stand for all that lists of neighbours depend on."""
    everything, admitted = map(snapshot.segment_rows, (None, lists.within))
    asked = lists.k, lists.within.radius, lists.within.distinct
    told = version("imgsim"), _PART, asked, state_of(everything), state_of(admitted)
    digest = hashlib.sha256(repr(told).encode())
    for image in snapshot.listed(()):
        digest.update(repr((image.id, image.path)).encode())
    return digest.hexdigest()[:16]


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
