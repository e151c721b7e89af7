"""The collection's vectors: segment files that the catalog names."""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.basis import Basis, fit_basis, read_basis, sample_size, write_basis
from imgsim.bounds import TILE, Bounds, altered_bounds, are_of_another, write_bounds
from imgsim.errors import CollectionDamaged, StoreError
from imgsim.exact import Block, Nearest, checked_queries
from imgsim.files import sha256_file
from imgsim.search import Searcher, Source
from imgsim.snapshot import Snapshot
from imgsim.types import Damage, SearchStats, Segment, Within
from imgsim.vectors import MappedVectors, write_blocks, write_segment

_BASIS = "basis.npz"
_ENDS = ".faiss", ".bounds"
_FEWEST_FITTED = 2_048
_FEWEST_BOUNDED = 256
_GROWTH = 8  # how many times as many vectors deserve a new basis


class VectorStore:
    """Segment files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, vectors: NDArray[np.float32]) -> Segment:
        """Durably write (n, d) float32 vectors as a new segment.

        They exist once the catalog commits the segment; until then the file is garbage.
        """
        name = secrets.token_hex(8)
        digest = write_segment(self._path(name), vectors)
        return Segment(name, len(vectors), vectors.shape[1], digest)

    def merge(self, parts: Sequence[tuple[Segment, NDArray[np.int64]]]) -> Segment | None:
        """Durably write the rows that are images as one new segment; None if there is none.

        Each part is a segment and the image id of each of its rows, -1 for none. Raises
        :class:`CollectionDamaged` where a file's bytes are not those that were stored.
        """
        rows = sum(int((ids >= 0).sum()) for _, ids in parts)
        if not rows:
            return None
        for segment, _ in parts:
            if (damage := self.segment_damage(segment)) is not None:
                raise CollectionDamaged(Path(damage.path), damage.expected, damage.found)
        name, dim = secrets.token_hex(8), parts[0][0].dim
        blocks = (
            block
            for segment, ids in parts
            for _, block in Source(ids, self._mapped(segment), None).blocks()
        )
        return Segment(name, rows, dim, write_blocks(self._path(name), rows, dim, blocks))

    def vector(self, segment: Segment, row: int) -> NDArray[np.float32]:
        """Return one vector (dim,)."""
        vectors = self._mapped(segment).take(np.array([row]))
        return vectors.reshape(segment.dim)

    def gallery(self, snapshot: Snapshot, within: Within | None = None) -> "Gallery":
        """Map the vectors that exist in ``snapshot``, or those of them that ``within`` admits."""
        within = within or Within()
        dim = snapshot.encoder().dim
        basis = self._basis(dim)
        sources = [
            Source(ids, self._mapped(segment), self._bounds(segment, basis))
            for segment in snapshot.segments()
            if (ids := snapshot.segment_ids(segment, within)).max(initial=-1) >= 0
        ]
        return Gallery(sources, basis, dim, within.radius)

    def build_bounds(self, snapshot: Snapshot) -> None:
        """Write the bounds that are missing; fit a basis first, once there are enough vectors.

        A collection that has grown many times gets another basis, and all its bounds anew.

        Raises :class:`StoreError` if that fails; a search does without.
        """
        segments = [s for s in snapshot.segments() if s.rows >= _FEWEST_BOUNDED]
        if not segments:
            return
        mapped = [self._mapped(segment) for segment in segments]
        try:
            basis = self._basis(segments[0].dim)
            if basis is None or sum(map(len, mapped)) >= _GROWTH * basis.rows:
                basis = self._new_basis(mapped)
            if basis is None or not basis.near:
                return
            for segment, vectors in zip(segments, mapped, strict=True):
                if self._bounds(segment, basis) is None:
                    starts = range(0, segment.rows, TILE)
                    blocks = (vectors.span(start, start + TILE) for start in starts)
                    write_bounds(self._bounds_path(segment.name), segment.rows, basis, blocks)
        except OSError as error:
            raise StoreError(
                f"{self._directory}: all images are stored, but what makes queries fast cannot be "
                f"written: {error.strerror}"
            ) from error

    def forget_basis(self) -> None:
        """Remove the basis, so that the next bounds are for one that is fitted anew."""
        (self._directory / _BASIS).unlink(missing_ok=True)

    def _new_basis(self, mapped: Sequence[MappedVectors]) -> Basis | None:
        """Fit and write a basis; None if there are too few vectors yet."""
        rows = sum(map(len, mapped))
        if rows < _FEWEST_FITTED:
            return None
        basis = fit_basis(_sample(mapped, sample_size(mapped[0].dim)), rows)
        write_basis(self._directory / _BASIS, basis)
        return basis

    def _basis(self, dim: int) -> Basis | None:
        """Return the basis of the bounds; None before there is a sound one of this dimension."""
        try:
            return read_basis(self._directory / _BASIS, dim)
        except (OSError, ValueError):
            return None

    def _bounds(self, segment: Segment, basis: Basis | None) -> Bounds | None:
        """Return the bounds of a segment; None where they are missing, stale or cut short."""
        if basis is None:
            return None
        try:
            return Bounds(self._bounds_path(segment.name), segment.rows, basis)
        except (OSError, ValueError):
            return None

    def sweep(self, snapshot: Snapshot) -> None:
        """Remove the files that belong to no segment; only the one writer may."""
        names = {f"{name}{end}" for name in snapshot.segment_names() for end in _ENDS} | {_BASIS}
        for path in self._directory.iterdir():
            if path.name not in names and not path.is_dir():
                path.unlink(missing_ok=True)

    def damages(self, snapshot: Snapshot) -> Iterator[Damage]:
        """Yield what is wrong with each segment file, and with the bounds that there are."""
        segments = snapshot.segments()
        for segment in (*segments, *snapshot.spare_segments()):
            if (damage := self.segment_damage(segment)) is not None:
                yield damage
        yield from self._bounds_damages(segments)

    def segment_damage(self, segment: Segment) -> Damage | None:
        """Return what is wrong with a file of vectors: missing, wrong shape, or altered bytes."""
        path = self._path(segment.name)
        try:
            self._mapped(segment)
            found = f"sha256 {sha256_file(path)}"
        except CollectionDamaged as error:
            return Damage(str(path), error.expected, error.found)
        except OSError as error:
            found = str(error.strerror)
        expected = f"sha256 {segment.sha256}"
        return None if found == expected else Damage(str(path), expected, found)

    def remove_damaged_bounds(self, segments: Sequence[Segment]) -> int:
        """Remove damaged bounds, which :meth:`build_bounds` makes anew; return how many."""
        damages = list(self._bounds_damages(segments))
        for damage in damages:
            Path(damage.path).unlink()
        return len(damages)

    def _bounds_damages(self, segments: Sequence[Segment]) -> Iterator[Damage]:
        """Yield how the basis, or bounds under it, are not what was written."""
        if not segments:
            return
        dim, path = segments[0].dim, self._directory / _BASIS
        basis = self._basis(dim)
        if basis is None:
            if path.exists():
                expected = f"an orthonormal basis of dimension {dim}"
                yield Damage(str(path), expected, "something else")
            return
        for segment in segments:
            path = self._bounds_path(segment.name)
            if not path.exists() or are_of_another(path, basis):
                continue
            if self._bounds(segment, basis) is None:
                expected = f"the bounds of {segment.rows} rows under the basis"
                yield Damage(str(path), expected, "something else")
            elif (altered := altered_bounds(path)) is not None:
                yield Damage(str(path), f"sha256 {altered[0]}", f"sha256 {altered[1]}")

    def _mapped(self, segment: Segment) -> MappedVectors:
        return MappedVectors(self._path(segment.name), segment.rows, segment.dim)

    def _bounds_path(self, name: str) -> Path:
        return self._directory / f"{name}.bounds"

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.faiss"


class Gallery:
    """The vectors of all images at one instant."""

    def __init__(
        self, sources: Sequence[Source], basis: Basis | None, dim: int, radius: float
    ) -> None:
        self._sources = sources
        self._searcher = Searcher(sources, basis, dim)
        self._radius = radius
        self.dim = dim

    def __len__(self) -> int:
        return sum(int((source.ids >= 0).sum()) for source in self._sources)

    @property
    def stats(self) -> SearchStats:
        """Return what the searches so far looked at."""
        return self._searcher.stats

    def search(self, queries: NDArray[np.float32], k: int | None) -> list[Nearest]:
        """Return the ``k`` nearest images of each of ``queries`` (q, dim) float32; None: all."""
        if k is not None and k < 1:
            raise StoreError(f"k must be at least 1, not {k}")
        return self._searcher.nearest(checked_queries(queries, self.dim), k, self._radius)

    def blocks(self) -> Iterator[Block]:
        """Yield the ids and vectors of all images in the order of segments, in bounded pieces."""
        for source in self._sources:
            yield from source.blocks()


def _sample(mapped: Sequence[MappedVectors], most: int) -> NDArray[np.float32]:
    """Return up to ``most`` rows, evenly from all segments."""
    step = max(1, -(-sum(map(len, mapped)) // most))
    return np.concatenate([v.take(np.arange(0, len(v), step)) for v in mapped])
