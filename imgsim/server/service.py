"""What the server does with a collection: search, list, show."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from imgsim.catalog.browse import Browse, browse, folders
from imgsim.collection import Collection
from imgsim.directory import THUMBNAILS, Directory
from imgsim.files import absolute
from imgsim.options import SearchFilter
from imgsim.output.listing import Listing
from imgsim.records import ImageRecord
from imgsim.results import EmbeddingMatches, ImageInfo, ImageNeighbours
from imgsim.searcher import Searcher
from imgsim.server import schema
from imgsim.server.current import Current
from imgsim.server.refusals import NoSuchImage
from imgsim.server.review import Review
from imgsim.server.settings import ServerSettings
from imgsim.server.thumbnails import Thumbnails

_AWAY = 0.5  # how far examples that are not wanted move a query, in differences of means


class Service:
    """A collection, ready to be asked from several threads."""

    def __init__(self, directory: Directory, settings: ServerSettings) -> None:
        self._directory = directory
        self._collection = Collection(directory)
        self._max_pixels = settings.max_pixels
        self._current = Current(directory)
        self._thumbnails = Thumbnails(directory.path / THUMBNAILS, settings.thumbnail_bytes)
        self.review = Review(directory, settings)

    def close(self) -> None:
        """Release what is open."""
        self._current.close()

    @property
    def shards(self) -> int:
        """Return how many shards of a cluster have workers now."""
        return len(self._directory.workers.shards) if self._directory.workers else 0

    def search(self, asked: schema.Search) -> schema.Matches:
        """Return the nearest images of examples."""
        with self._searcher(asked.within()) as searcher:
            ids = [self._id_of(each) for each in asked.like]
            like = self._rows(searcher, asked.like)
            query = like.mean(axis=0, dtype=np.float64)
            if asked.unlike:
                unlike = self._rows(searcher, asked.unlike)
                query += _AWAY * (query - unlike.mean(axis=0, dtype=np.float64))
            if len(asked.like) == 1 and not asked.unlike:
                query = like[0]
            ids += [self._id_of(each) for each in asked.unlike]
            own = {number for number in ids if number is not None}
            row = np.asarray(query, np.float32)[np.newaxis]
            found = searcher.search_embeddings(row, asked.k + len(own))
            return _matches(searcher, found, asked.k, own)

    def search_image(self, image: bytes, asked: schema.Narrowed) -> schema.Matches:
        """Return the nearest images of an image file."""
        with self._searcher(asked.within()) as searcher:
            results = searcher.search([image], asked.k, max_pixels=self._max_pixels)
            known = searcher.images([match.id for match in results[0].matches])
            return schema.Matches(
                matches=[
                    schema.Match(
                        rank=each.rank, distance=each.distance, image=described(known[each.id])
                    )
                    for each in results[0].matches
                ]
            )

    def neighbours(self, number: int, asked: schema.Narrowed) -> schema.Matches:
        """Return the nearest other images of a stored one."""
        with self._searcher(asked.within()) as searcher:
            self._known(searcher, number)
            return _matches(searcher, searcher.search_ids([number], asked.k), asked.k, set())

    def embed(self, image: bytes) -> schema.Embedding:
        """Return the embedding of an image file."""
        rows = self._collection.embed([image], max_pixels=self._max_pixels)
        return schema.Embedding(embedding=rows[0].tolist())

    def image(self, number: int) -> schema.StoredImage:
        """Return what is known of a stored image."""
        with self._current.searcher() as searcher:
            return described(self._known(searcher, number))

    def listed(self, asked: schema.Listed) -> schema.ImagePage:
        """Return a page of stored images."""
        with self._directory.catalog.snapshot() as snapshot:
            page = browse(snapshot, Browse(**asked.model_dump()))
        images = [
            schema.StoredImage(
                id=number,
                path=each.path,
                width=each.width,
                height=each.height,
                bytes=each.size,
                damaged=each.damaged,
            )
            for number, each in page.images.items()
        ]
        return schema.ImagePage(images=images, after=page.after)

    def record(self, number: int) -> ImageRecord:
        """Return what the catalog has of a stored image."""
        with self._directory.catalog.snapshot() as snapshot:
            found = snapshot.records([number])
        if number not in found:
            raise NoSuchImage(f"no stored image has the id {number}")
        return found[number]

    def folders(self, asked: schema.Folder) -> schema.FolderNames:
        """Return the names of the folders in a folder."""
        with self._directory.catalog.snapshot() as snapshot:
            return schema.FolderNames(folders=folders(snapshot, absolute(asked.under)))

    def picture(self, record: ImageRecord, size: str) -> bytes:
        """Return a small or large picture of a stored image, as a JPEG file."""
        return self._thumbnails.get(record, size)

    def lists(self, asked: schema.Lists) -> Listing[ImageNeighbours]:
        """Return the neighbours of all images, computed while they are taken."""
        radius = float("inf") if asked.radius is None else asked.radius
        return self._collection.neighbours(asked.k, SearchFilter(radius))

    @contextmanager
    def _searcher(self, within: SearchFilter) -> Iterator[Searcher]:
        if within == SearchFilter():
            with self._current.searcher() as searcher:
                yield searcher
        else:
            with self._collection.searcher(within) as searcher:
                yield searcher

    def _id_of(self, example: schema.Example) -> int | None:
        """Return the id of a stored image; None for an embedding."""
        if example.path is None:
            return example.id
        with self._directory.catalog.snapshot() as snapshot:
            found = snapshot.id_at(absolute(example.path))
        if found is None:
            raise NoSuchImage("no stored image has this path")
        return found

    def _rows(self, searcher: Searcher, examples: Sequence[schema.Example]) -> NDArray[np.float32]:
        rows = np.empty((len(examples), searcher.dim), np.float32)
        for row, each in zip(rows, examples, strict=True):
            if each.embedding is None:
                number = self._id_of(each)
                row[:] = searcher.embeddings([self._known(searcher, number or 0).id])[0]
            elif len(each.embedding) != searcher.dim:
                raise ValueError(f"an embedding has {searcher.dim} values here")
            else:
                row[:] = each.embedding
        return rows

    @staticmethod
    def _known(searcher: Searcher, number: int) -> ImageInfo:
        found = searcher.images([number])
        if number not in found:
            raise NoSuchImage(f"no stored image has the id {number}")
        return found[number]


def described(image: ImageInfo) -> schema.StoredImage:
    """Return what the service says of a stored image."""
    return schema.StoredImage.model_validate(image, from_attributes=True)


def _matches(searcher: Searcher, found: EmbeddingMatches, k: int, own: set[int]) -> schema.Matches:
    """Return the matches of one query but its own images."""
    pairs = [
        (number, distance)
        for number, distance in zip(found.ids[0].tolist(), found.distances[0].tolist(), strict=True)
        if number >= 0 and number not in own
    ][:k]
    known = searcher.images([number for number, _ in pairs])
    matches = [
        schema.Match(rank=rank, distance=distance, image=described(known[number]))
        for rank, (number, distance) in enumerate(pairs, start=1)
    ]
    return schema.Matches(matches=matches)
