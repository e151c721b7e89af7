"""Lists of neighbours written in parts, by this process or by the workers of a cluster."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from imgsim.catalog.snapshot import Snapshot
from imgsim.cluster.gallery import ShardedGallery
from imgsim.index.distance import Block
from imgsim.jobs.image_table import ImageTable
from imgsim.jobs.neighbours import Lister, NeighbourLists
from imgsim.output.part_files import BucketFiles, PartFiles
from imgsim.output.parts import Parts
from imgsim.records import state_of
from imgsim.results import Progress

_PART = 16_384  # images whose lists are in a file, or a few more


@dataclass(frozen=True, eq=False)
class _Part:
    """The images of a part, and how many there are ``before`` them."""

    blocks: list[Block]
    before: int

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self.blocks)


@dataclass(frozen=True, eq=False)
class _Writer:
    """What workers must know to write parts."""

    parts: Parts
    lister: Lister

    def write(self, numbered: tuple[int, _Part]) -> tuple[int, int]:
        """Write a part; return its number, and how many images it has."""
        number, part = numbered
        self.parts.put(number, self.lister(part.blocks))
        return number, len(part)


_Missing = Iterator[tuple[int, _Part]]


def write_parts(lists: NeighbourLists, on_progress: Progress | None, files: PartFiles) -> int:
    """Write the parts of lists that are not among some files yet; return how many rows all have.

    Where workers search, they write to a bucket themselves.
    """
    with lists.opened() as opened:
        parts = Parts(files, _key(lists, opened.snapshot))

        def here(missing: _Missing) -> Iterator[int]:
            for number, part in missing:
                parts.put(number, opened.lists(part.blocks, on_progress, part.before))
                yield number

        groups = _grouped(opened.everything.blocks())
        match opened.everything, opened.admitted, files:
            case ShardedGallery() as workers, ShardedGallery() as admitted, BucketFiles():
                images = ImageTable.of(opened.snapshot, with_contents=lists.within.distinct)
                writer = _Writer(parts, opened.lister(images, admitted.remote()))
                return parts.complete(
                    groups, lambda missing: _by_workers(workers, writer, missing, on_progress)
                )
        return parts.complete(groups, here)


def _by_workers(
    workers: ShardedGallery, writer: _Writer, missing: _Missing, on_progress: Progress | None
) -> Iterator[int]:
    """Let workers write parts, and yield the numbers of those that they have written."""
    begun = pending = 0

    def counted() -> Iterator[tuple[int, _Part]]:
        nonlocal begun, pending
        for number, part in missing:
            begun, pending = part.before + len(part), pending + len(part)
            yield number, part

    for number, images in workers.each(_Writer.write, writer, counted()):
        pending -= images
        if on_progress is not None:
            on_progress(begun - pending, len(workers))
        yield number


def _grouped(blocks: Iterable[Block]) -> Iterator[_Part]:
    """Yield blocks in groups of at least so many images that a part has."""
    before, group = 0, list[Block]()
    for block in blocks:
        group.append(block)
        part = _Part(group, before)
        if len(part) >= _PART:
            yield part
            before, group = before + len(part), []
    if group:
        yield _Part(group, before)


def _key(lists: NeighbourLists, snapshot: Snapshot) -> str:
    """Return 16 digits that stand for all that lists of neighbours depend on."""
    everything, admitted = map(snapshot.segment_rows, (None, lists.within))
    asked = lists.k, lists.within.radius, lists.within.distinct
    told = version("imgsim"), _PART, asked, state_of(everything), state_of(admitted)
    digest = hashlib.sha256(repr(told).encode())
    for image in snapshot.listed(()):
        digest.update(repr((image.id, image.path)).encode())
    return digest.hexdigest()[:16]
