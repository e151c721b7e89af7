"""Several collections, searched as if they were one."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from imgsim.cluster_options import ClusterSettings, MilvusSettings
from imgsim.directory import Directory
from imgsim.errors import EncoderMismatch, EncoderMissing, ImageError
from imgsim.files import absolute
from imgsim.images.source import Images
from imgsim.options import (
    MAX_PIXELS,
    Damaged,
    DecodeRules,
    Device,
    Paths,
    SearchFilter,
    checked_k,
    listed,
)
from imgsim.reading import Reading
from imgsim.results import Match, QueryResult, SearchResults, SearchStats


class JointSearcher:
    """Answers queries about several collections with the same encoder as if they were one.

    It sees each as it was when it was opened, as a :class:`Searcher` does. Use it as a context
    manager, or close it. ``within`` restricts which images count; a ``cluster``
    searches. A file that several have stored is found in each of them, unless copies are left out.

    Raises :class:`EncoderMismatch` if their embeddings are by different encoders, ValueError for
    no collection or the same one twice, and what :meth:`Collection.open` raises.
    """

    def __init__(
        self,
        paths: Paths,
        within: SearchFilter | None = None,
        *,
        device: Device = "auto",
        cluster: ClusterSettings | MilvusSettings | None = None,
    ) -> None:
        self._within = within or SearchFilter()
        folders = [Path(absolute(path)) for path in listed(paths)]
        if not folders or len({os.path.realpath(folder) for folder in folders}) < len(folders):
            raise ValueError("name one collection or more, and none of them twice")
        self._readings: dict[str, Reading] = {}
        with ExitStack() as opening:
            for folder in folders:
                directory = Directory.open(folder, create=False, device=device, cluster=cluster)
                opening.callback(directory.close)
                try:
                    reading = Reading(directory, self._within, directory.load_encoder)
                except EncoderMissing as error:
                    raise EncoderMissing(f"{folder}: {error}") from error
                opening.callback(reading.close)
                self._readings[str(folder)] = reading
            self._refuse_other_encoders()
            self._opened = opening.pop_all()

    def close(self) -> None:
        """Release what is open; a search raises ValueError from then on."""
        self._readings = {}
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images that count."""
        return sum(map(len, self._readings.values()))

    def search(
        self,
        images: Images,
        k: int | None = 10,
        on_error: Callable[[ImageError], None] | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        damaged: Damaged = "refuse",
    ) -> SearchResults:
        """Return for each image its ``k`` nearest stored images (None: all), nearest first.

        Equal distances are in the order of the collections, then of ids. Each match names its
        collection, if there are several. The rest is as in :meth:`Searcher.search`.
        """
        if not self._readings:
            raise ValueError("the searcher is closed")
        k, (first, *_) = checked_k(k), self._readings.values()
        rules = DecodeRules(max_pixels, accept_damaged=damaged == "accept")
        queries, embeddings = first.embed(images, on_error, rules)
        if not queries:
            return SearchResults((), SearchStats())
        found, stats = [], SearchStats()
        for reading in self._readings.values():
            answer = reading.nearest(embeddings, k, queries)
            found.append(reading.matches(answer.nearest))
            stats += answer.stats
        joined = (self._joined(lists, k) for lists in zip(*found, strict=True))
        names = (query.name for query in queries)
        results = tuple(map(QueryResult, names, joined))
        return SearchResults(results, replace(stats, queries=len(queries)))

    def _joined(self, lists: Sequence[Sequence[Match]], k: int | None) -> tuple[Match, ...]:
        """Return the first ``k`` of what each collection has for a query.

        Where copies are left out, each list has its first ``k`` contents. So whatever one lacks
        comes after ``k`` contents that it has.
        """
        if len(lists) == 1:
            return tuple(lists[0])
        everything = [
            replace(match, collection=folder)
            for folder, matches in zip(self._readings, lists, strict=True)
            for match in matches
        ]
        everything.sort(key=lambda match: match.distance)  # stable
        if self._within.distinct:
            everything = self._without_copies(everything)
        return tuple(replace(match, rank=i) for i, match in enumerate(everything[:k], start=1))

    def _without_copies(self, matches: list[Match]) -> list[Match]:
        contents = {
            (folder, number): content
            for folder, reading in self._readings.items()
            for number, content in reading.contents(
                [match.id for match in matches if match.collection == folder]
            ).items()
        }
        first: dict[bytes, Match] = {}
        for match in matches:
            first.setdefault(contents[match.collection, match.id], match)
        return list(first.values())

    def _refuse_other_encoders(self) -> None:
        (first, reading), *others = self._readings.items()
        for folder, other in others:
            same = other.encoder.fingerprint == reading.encoder.fingerprint
            if not same or other.loaded().preprocessing != reading.loaded().preprocessing:
                raise EncoderMismatch(
                    f"{folder}: its embeddings are not by the encoder of {first}; `imgsim encoder "
                    "import` and `imgsim reencode` give it that one"
                )
