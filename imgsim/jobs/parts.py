"""Lists of neighbours written in parts, by this process or by the workers of a cluster."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain

from imgsim.catalog.snapshot import Snapshot
from imgsim.cluster.gallery import ShardedGallery
from imgsim.index.distance import Block
from imgsim.index.gallery import Finder
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

    def write(self, part: tuple[int, _Part, Finder]) -> tuple[int, int]:
        """Write a part, of neighbours as they are found; return its number and its length."""
        number, images, admitted = part
        self.parts.put(number, self.lister(admitted, images.blocks))
        return number, len(images)


_Missing = Iterator[tuple[int, _Part]]


def write_parts(lists: NeighbourLists, on_progress: Progress | None, files: PartFiles) -> int:
    """Write the parts of lists that are not among some files yet; return how many rows all have.

    Where workers search, they write to a bucket themselves.
    """
    with lists.opened() as opened:
        parts = Parts(files, _key(lists, opened.snapshot))
        groups = _grouped(opened.everything.blocks())

        def writer() -> _Writer:
            table = ImageTable.of(opened.snapshot, with_contents=lists.within.distinct)
            return _Writer(parts, opened.lister(table))

        match opened.everything, opened.admitted, files:
            case ShardedGallery() as workers, ShardedGallery() as admitted, BucketFiles():
                write = partial(_by_workers, workers, admitted, writer, on_progress)
                return parts.complete(groups, write)

        def here(missing: _Missing) -> Iterator[int]:
            for number, part in missing:
                parts.put(number, opened.lists(part.blocks, on_progress, part.before))
                yield number

        return parts.complete(groups, here)


def _by_workers(
    workers: ShardedGallery,
    admitted: ShardedGallery,
    writer: Callable[[], _Writer],
    on_progress: Progress | None,
    missing: _Missing,
) -> Iterator[int]:
    """Let workers write parts, and yield the numbers of those that they have written."""
    first = next(missing, None)
    if first is None:
        return  # and nobody need join a cluster
    begun = pending = 0

    def items() -> Iterator[tuple[int, _Part, Finder]]:
        nonlocal begun, pending
        for number, part in chain([first], missing):
            begun, pending = part.before + len(part), pending + len(part)
            yield number, part, admitted.remote()

    for number, images in workers.each(_Writer.write, writer(), items()):
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
