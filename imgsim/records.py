"""Frozen records that cross packages; callers see those of ``imgsim.results``.

A path is a ``str`` decoded as :func:`os.fsdecode` does: bytes that are not valid UTF-8 are kept as
surrogates, and :func:`os.fsencode` gives the exact bytes back.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
"""The form of a sha256, which names an encoder."""

SEGMENT_NAME = re.compile(r"[0-9a-f]{16}")
"""The form of a segment's name."""


def packed(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a bit for each flag, the least first, (n / 8, rounded up) uint8; or nothing.

    Nothing stands for no flag that is set.
    """
    return np.packbits(flags, bitorder="little") if flags.any() else np.empty(0, np.uint8)


def unpacked(bits: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """Return the flags (count,) that :func:`packed` has packed."""
    if not len(bits):  # NumPy would return what happens to be in memory
        return np.zeros(count, bool)
    return np.unpackbits(bits, count=count, bitorder="little").astype(bool)


def excluded(
    rows: int, removed: bytes | None, under: list[int] | None, not_under: list[int]
) -> NDArray[np.uint8]:
    """Return the bits of the rows that do not count; empty if all do.

    These are the ``removed`` ones, those that are not ``under``, unless that is None, and those in
    ``not_under``.
    """
    if removed is None and under is None and not not_under:
        return np.empty(0, np.uint8)
    flags = unpacked(np.frombuffer(removed or b"", np.uint8), rows)
    if under is not None:
        outside = np.ones(rows, bool)
        outside[under] = False
        flags |= outside
    flags[not_under] = True
    return packed(flags)


@dataclass(frozen=True)
class ImageFile:
    """A regular file that may be an image; ``mtime_ns`` is nanoseconds since the epoch.

    ``claimed`` says that the file was named by the user or has an image's suffix: if its content is
    no image, that is a refusal to report; any other such file is passed over.
    """

    path: str
    size: int
    mtime_ns: int
    claimed: bool


@dataclass(frozen=True)
class ImageRecord:
    """What the catalog keeps of one image; ``width`` and ``height`` are the upright pixels.

    ``damaged`` says that some of the pixels could not be decoded, and that this was accepted.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: bytes
    width: int
    height: int
    damaged: bool = False


@dataclass(frozen=True)
class Segment:
    """A segment file: ``rows`` embeddings of ``dim`` float32; ``sha256`` is of the whole file."""

    name: str
    rows: int
    dim: int
    sha256: str


@dataclass(frozen=True, eq=False)
class SegmentRows:
    """A segment, and which of its rows count.

    ``excluded`` has a bit for each row that does not, (rows / 8, rounded up) uint8, the least bit
    first; it is empty if all rows count.
    """

    segment: Segment
    excluded: NDArray[np.uint8]

    @property
    def count(self) -> int:
        """Return how many rows count."""
        return self.segment.rows - int(np.bitwise_count(self.excluded).sum())


def state_of(rows: Iterable[SegmentRows]) -> str:
    """Return 16 digits that stand for the images that a collection has, and their embeddings."""
    digest = hashlib.sha256()
    for each in sorted(rows, key=lambda each: each.segment.name):
        digest.update(each.segment.name.encode() + each.excluded.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class StoredImage:
    """An image that the catalog has: its embedding is row ``row`` of ``segment``."""

    id: int
    path: str
    width: int
    height: int
    damaged: bool
    segment: Segment
    row: int


@dataclass(frozen=True)
class EncoderRecord:
    """An encoder that the collection holds; ``fingerprint`` is the sha256 of its ONNX file."""

    id: int
    fingerprint: str
    dim: int
    name: str
    active: bool


@dataclass(frozen=True)
class Inventory:
    """What lies in a collection's folder, whatever the catalog says.

    ``encoders`` are the dimensions of sound ones by fingerprint, the oldest files first.
    ``segments`` are complete files by name. Of those in ``proven`` every row has the checksum that
    the table beside it has. ``last_id`` is the greatest id of an image in a table.
    """

    encoders: Mapping[str, int]
    segments: Mapping[str, Segment]
    proven: frozenset[str]
    last_id: int
