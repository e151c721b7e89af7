"""Frozen records that cross packages; callers see those of ``imgsim.results``.

A path is a ``str`` decoded as :func:`os.fsdecode` does: bytes that are not valid UTF-8 are kept as
surrogates, and :func:`os.fsencode` gives the exact bytes back.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
