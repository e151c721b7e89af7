"""The directions in which embeddings vary most, fitted to a sample, and their file."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.files import replacing

_MOST_DIRECTIONS = 384
_MOST_BYTES = 0.19  # of the embeddings' own
_SAMPLE_BYTES = 64 << 20
_WIDTH_STEP = 8
_SECOND_LEVEL_COST = 4_000  # bytes of scanning that a look at a row in the second level is worth
_DISTANCE_COST = 100_000  # the same for a true distance
_UNREADABLE = (  # what NumPy raises for a file with altered bytes, besides OSError
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Projection:
    """A mean (d,) and orthonormal directions (d, m2) in float64, ``near`` of them in level one.

    ``near`` is a multiple of 4; ``rows`` is how many embeddings the sample stands for.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    near: int
    rows: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the values."""
        digest = hashlib.sha256(self.mean.tobytes())
        digest.update(self.directions.tobytes())
        digest.update(str(self.near).encode())
        return digest.hexdigest()

    def project(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the products (n, m2) of x - mu and the directions, and |x - mu|^2 (n,)."""
        centred = rows - self.mean
        return centred @ self.directions, np.einsum("ij,ij->i", centred, centred)

    def rests(
        self, along: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return for what :meth:`project` gives the length of the rest (n,) in both levels."""

        def rest(part: NDArray[np.float64]) -> NDArray[np.float64]:
            length: NDArray[np.float64] = np.sqrt(
                np.maximum(0, squares - np.einsum("ij,ij->i", part, part))
            )
            return length

        return rest(along[:, : self.near]), rest(along)


def sample_size(dim: int) -> int:
    """Return how many rows a sample for :func:`fit_projection` should have."""
    return max(1_024, min(16_384, _SAMPLE_BYTES // (4 * dim)))


def fit_projection(sample: NDArray[np.float32], rows: int = 0) -> Projection:
    """Fit a projection to ``sample`` (n, d) float32 of so many rows: mean and principal directions.

    The directions come from a randomised range finder with two power iterations (Halko, Martinsson,
    Tropp 2011, algorithm 4.4), in memory of a few times the sample. The widths of the levels are
    chosen by counting, within the sample, how many rows a search would leave at each width.
    ``near`` is 0 if no width beats a plain scan: the embeddings do not compress.
    """
    random = np.random.default_rng(0)
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean
    dim = sample.shape[1]
    most = min(_MOST_DIRECTIONS, int(_MOST_BYTES * 4 * dim) - 24, len(sample) // 4, dim)
    if most < 2 * _WIDTH_STEP:
        return Projection(mean, np.zeros((dim, 0)), 0, rows)
    reach = np.linalg.qr(centred.T @ (centred @ random.normal(size=(dim, min(dim, most + 16)))))[0]
    for _ in range(2):
        reach = np.linalg.qr(centred.T @ (centred @ reach))[0]
    _, turn = np.linalg.eigh(np.cov((centred @ reach).T))
    directions = np.linalg.qr(reach @ turn[:, ::-1][:, :most])[0]
    near, far = _widths(centred, directions)
    return Projection(mean, np.ascontiguousarray(directions[:, :far]), near, rows)


def _widths(centred: NDArray[np.float64], directions: NDArray[np.float64]) -> tuple[int, int]:
    """Return the cheapest numbers of directions of the two levels; (0, 0) if a plain scan is."""
    queries = np.linspace(0, len(centred) - 1, 48).astype(int)
    along = centred @ directions
    squares = np.einsum("ij,ij->i", centred, centred)
    true = squares + squares[queries, None] - 2 * centred[queries] @ centred.T
    true[true <= 1e-9 * (squares + squares[queries, None])] = np.inf  # itself, and its twins
    limits = np.sqrt(true.min(axis=1))
    scale = np.maximum(np.abs(along).max(axis=0), np.finfo(np.float64).tiny) / 127
    errors = np.sqrt(np.cumsum((along - np.rint(along / scale) * scale) ** 2, axis=1))
    widths = range(_WIDTH_STEP, directions.shape[1] + 1, _WIDTH_STEP)
    left = {}
    for width in widths:
        part = along[:, :width]
        rest = np.sqrt(np.maximum(0, squares - np.einsum("ij,ij->i", part, part)))
        short = np.column_stack([part, rest])
        lengths = np.einsum("ij,ij->i", short, short)
        bound = lengths + lengths[queries, None] - 2 * short[queries] @ short.T
        reach = limits[:, None] + errors[:, width - 1]
        left[width] = float((bound <= reach**2).mean())
    near = min(widths, key=lambda width: width + left[width] * _SECOND_LEVEL_COST)
    if near + left[near] * _SECOND_LEVEL_COST > 0.5 * 4 * centred.shape[1]:
        return 0, 0
    wider = [width for width in widths if width >= near]
    far = min(wider, key=lambda width: left[near] * width + left[width] * _DISTANCE_COST)
    return near, far


def write_projection_file(path: Path, projection: Projection) -> None:
    """Durably write a projection as an .npz of its four fields."""
    near, rows = np.int64(projection.near), np.int64(projection.rows)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mean=projection.mean, directions=projection.directions, near=near, rows=rows)


def read_projection(path: Path, dim: int) -> Projection:
    """Return the projection in a file; raise ValueError or OSError if it is not one of ``dim``."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            counts = int(arrays["near"]), int(arrays["rows"])
            projection = Projection(arrays["mean"], arrays["directions"], *counts)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not a projection") from error
    if not _is_sound(projection, dim):
        raise ValueError(f"{path}: not orthonormal directions of dimension {dim}")
    return projection


def _is_sound(projection: Projection, dim: int) -> bool:
    """Say whether the shapes fit, and the directions are as orthonormal as the bounds need."""
    count = projection.directions.shape[-1]
    if projection.mean.shape != (dim,) or projection.directions.shape != (dim, count):
        return False
    departure = np.linalg.norm(projection.directions.T @ projection.directions - np.eye(count))
    widths = 0 <= projection.near <= count and projection.near % 4 == 0
    return widths and bool(np.isfinite(projection.mean).all()) and bool(departure <= 1e-12)
