"""The image files of a training, split and decoded."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError, ImageError
from imgsim.images.decode import content_hash, decode, sorted_out
from imgsim.images.frame import Frame
from imgsim.options import DECODE_RULES, DecodeRules, TrainingSettings
from imgsim.parallel import in_threads
from imgsim.records import ImageFile
from imgsim.results import Refusal

_STACKED = 1 << 29  # bytes of images in one array
_CACHED = 1 << 30  # bytes of decoded images
_AT_ONCE = 64  # images decoded by several threads


class TrainingImages:
    """The image files of a training run, decoded when asked for."""

    def __init__(
        self,
        found: Iterable[ImageFile | ImageError],
        frame: Frame,
        rules: DecodeRules = DECODE_RULES,
        *,
        most_held_out: int = 2_000,  # an epoch of 20,000 images is followed by them
    ) -> None:
        self.paths, refused = sorted_out(found)
        self._frame, self._rules = frame, rules
        self._most_held_out = most_held_out
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._refused = {refusal.path: refusal.reason for refusal in refused}

    def readable(self, numbers: Iterable[int]) -> int:
        """Return how many of the images have not turned out to be unreadable."""
        return sum(self.paths[number] not in self._refused for number in numbers)

    def fingerprint(self, numbers: Iterable[int] | None = None) -> str:
        """Return a checksum of the paths and of the contents, of all images or of some."""
        digest = hashlib.sha256()
        paths = self.paths if numbers is None else [self.paths[number] for number in numbers]
        for path, content in zip(paths, in_threads(content_hash, paths), strict=True):
            digest.update(os.fsencode(path) + b"\0")
            if isinstance(content, ImageError):
                self._refused[path] = content.reason
            else:
                digest.update(content)
        return digest.hexdigest()

    def split(self, settings: TrainingSettings) -> tuple[list[int], list[int]]:
        """Return the numbers of the training and of the validation images, at least one of each.

        The first validation image and the last one to train on can be decoded, and differ. Raises
        :class:`EncoderError` if there are no such two.
        """
        n = len(self.paths)
        order: list[int] = np.random.default_rng(settings.seed).permutation(n).tolist()
        first = next(self._loaded(order), None)
        if first is None:
            raise self._unfit()
        others = (number for number, px in self._loaded(order[::-1]) if (px != first[1]).any())
        last = next(others, None)
        if last is None:
            raise self._unfit()
        between = [number for number in order if number not in {first[0], last}]
        order = [first[0], *between, last]
        held_out = min(n - 1, self._most_held_out, max(1, round(n * settings.validation_split)))
        return order[held_out:], order[:held_out]

    def _loaded(self, numbers: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the numbers and the pixels of the images that can be decoded."""
        for number in numbers:
            with suppress(ImageError):
                yield number, self.load(number)

    def load(self, number: int) -> NDArray[np.uint8]:
        """Return image ``number`` as (side, side, 3) uint8 or raise :class:`ImageError`."""
        if number in self._cache:
            return self._cache[number]
        path = self.paths[number]
        try:
            pixels = decode(path, self._frame, self._rules)
        except ImageError as error:
            self._refused[path] = error.reason
            raise
        if len(self._cache) * pixels.nbytes < _CACHED:
            self._cache[number] = pixels
        return pixels

    def decoded(self, numbers: Sequence[int], most: int) -> Iterator[NDArray[np.uint8]]:
        """Yield up to ``most`` of the images that can be decoded."""

        def found(number: int) -> list[NDArray[np.uint8]]:
            with suppress(ImageError):
                return [self.load(number)]
            return []

        with ThreadPoolExecutor() as pool:
            starts = range(0, len(numbers), _AT_ONCE)
            parts = (pool.map(found, numbers[start : start + _AT_ONCE]) for start in starts)
            yield from islice(chain.from_iterable(chain.from_iterable(parts)), most)

    def first(self, numbers: Sequence[int], most: int) -> NDArray[np.uint8]:
        """Return up to ``most`` of the images that can be decoded, (n, side, side, 3) uint8.

        They are fewer if they would take more than half a gigabyte. Raises :class:`EncoderError` if
        there are none.
        """
        size = 3 * self._frame.height * self._frame.width
        found = list(self.decoded(numbers, min(most, _STACKED // size or 1)))
        if not found:
            raise EncoderError(f"none of the training images can be decoded{self._first_refused()}")
        return np.stack(found)

    def refused(self) -> tuple[Refusal, ...]:
        """Return the files that could not be decoded, sorted by path."""
        return tuple(Refusal(path, reason) for path, reason in sorted(self._refused.items()))

    def _unfit(self) -> EncoderError:
        """Return what to raise where all were tried, and no two can be decoded and differ."""
        found = self.readable(range(len(self.paths)))
        if found > 1:
            return EncoderError(
                f"all {found:,} images are the same picture, so there is nothing to learn"
            )
        return EncoderError(
            "training needs at least 2 images that can be decoded, found "
            f"{found}{self._first_refused()}"
        )

    def _first_refused(self) -> str:
        """Return what to say of it at the end of an error."""
        return "".join(f"; {each.path}: {each.reason}" for each in self.refused()[:1])
