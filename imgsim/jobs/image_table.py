"""Paths of all images as arrays, which the workers of a machine share."""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.snapshot import Snapshot

_AT_ONCE = 8_192


@dataclass(frozen=True, eq=False)
class ImageTable:
    """What a catalog says of images, by ascending ``ids`` (n,).

    The path of the image i is ``text[ends[i]:ends[i + 1]]``, as bytes; its content has the hash
    ``hashes[i]``, (n, 32) uint8, if hashes are there.
    """

    path: Path
    ids: NDArray[np.int64]
    ends: NDArray[np.int64]
    text: NDArray[np.uint8]
    hashes: NDArray[np.uint8]

    @classmethod
    def of(cls, snapshot: Snapshot, *, with_contents: bool) -> "ImageTable":
        """Return the table of all images that a catalog has."""
        ids, ends, text, hashes = array("q"), array("q", [0]), bytearray(), bytearray()
        for image in snapshot.listed(()):
            ids.append(image.id)
            text += os.fsencode(image.path)
            ends.append(len(text))
        for at in range(0, len(ids) if with_contents else 0, _AT_ONCE):
            some = ids[at : at + _AT_ONCE].tolist()
            found = snapshot.contents(some)
            hashes += b"".join(found[number] for number in some)
        return cls(
            snapshot.path,
            np.frombuffer(ids, np.int64),
            np.frombuffer(ends, np.int64),
            np.frombuffer(text, np.uint8),
            np.frombuffer(hashes, np.uint8).reshape(-1, 32),
        )

    def paths(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the paths of the images with these ids, as far as there are such."""
        return {
            number: os.fsdecode(self.text[self.ends[i] : self.ends[i + 1]].tobytes())
            for number, i in self._places(list(ids))
        }

    def contents(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the hash of the content of each of the images with these ids."""
        return {number: self.hashes[i].tobytes() for number, i in self._places(ids)}

    def _places(self, ids: Sequence[int]) -> Iterable[tuple[int, int]]:
        """Return those ids that are there, each with its place."""
        wanted = np.array(ids, np.int64)
        places = np.searchsorted(self.ids, wanted)
        inside = np.flatnonzero(places < len(self.ids))
        known = inside[self.ids[places[inside]] == wanted[inside]]
        return zip(wanted[known].tolist(), places[known].tolist(), strict=True)
