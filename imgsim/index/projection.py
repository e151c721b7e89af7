"""The directions in which embeddings vary most, fitted to a sample, and their file."""

import hashlib
import tokenize
import zipfile
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.files import replacing

STEP = 16
"""What all numbers of directions are multiples of, as the compiled scans need it."""

BLOCK = 64
"""The most codes of level one whose products are summed in 16 bits."""

_FEW = 1_280  # dimensions in which all directions are found
_MOST_DIRECTIONS = 512  # of more dimensions
_MOST_BYTES = 0.34  # of the embeddings' own
_SAMPLE_BYTES = 64 << 20
_COUNTED, _COUNTED_ROWS = 48, 4_096  # queries and rows of the sample with which widths are chosen
_TILE = 1_024  # rows that share scales
_ROW_BYTES = 8  # of what is read of each row beside its codes, and again in the second level
_SECOND_LEVEL_COST = 24_000  # bytes of codes that a look at a row in the second level is worth
_BESIDE_ALL = 8_000  # the same, where a scan of all embeddings is the other choice
_ROW_COST = 20_000, 20  # the same for a row itself: always, and for each value
_NEIGHBOURS = 20, 0.003  # that a search is for, or a share of all: ten, but some ask from afar
_ABOUT = 1.02  # times the least cost: what the sample does not tell apart
_UNREADABLE = (  # what NumPy raises for a file with altered bytes, besides OSError
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Projection:
    """A mean (d,) and orthonormal directions (d, m2) in float64, ``near`` of them in level one.

    Coordinates along the first ``fine`` are coded in 8 bits, along the others of level one in 4,
    along those beyond it in ``far_bits``, 4 or 8. The numbers of directions are multiples of STEP.
    ``rows`` is how many embeddings the sample stands for.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    fine: int
    near: int
    rows: int = 0
    far_bits: int = 4

    @property
    def far(self) -> int:
        """Return how many directions are beyond level one."""
        return int(self.directions.shape[1]) - self.near

    @property
    def planes(self) -> int:
        """Return how many codes of 4 bits a row has in level one."""
        return self.near + self.fine

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Return where blocks of codes of level one begin, and the end.

        A block has at most BLOCK codes, and high ones are in blocks of their own.
        """
        ends = self.fine, self.planes
        starts = (range(start, end, BLOCK) for start, end in zip((0, *ends), ends, strict=False))
        return np.array([*chain.from_iterable(starts), self.planes])

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the values."""
        digest = hashlib.sha256(self.mean.tobytes())
        digest.update(self.directions.tobytes())
        digest.update(f"{self.fine},{self.near},{self.far_bits}".encode())
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

    The directions of very many dimensions come from a randomised range finder with two power
    iterations (Halko, Martinsson, Tropp 2011, algorithm 4.4), in memory of a few times the
    sample. The widths of the levels are chosen by counting, within the sample, how many rows a
    search would leave. ``near`` is 0 if none beats a plain scan: the embeddings do not compress.
    """
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean
    dim = sample.shape[1]
    most = dim if dim <= _FEW else _MOST_DIRECTIONS
    most = min(most, 2 * (int(_MOST_BYTES * 4 * dim) - 2 * _ROW_BYTES), len(sample) // 4)
    most = most // STEP * STEP
    if most <= 0:
        return Projection(mean, np.zeros((dim, 0)), 0, 0, rows)
    if dim <= _FEW:
        found = np.linalg.eigh(np.cov(centred.T))[1]
    else:
        reach = _range(centred, most + 16)
        found = reach @ np.linalg.eigh(np.cov((centred @ reach).T))[1]
    directions = np.linalg.qr(found[:, ::-1][:, :most])[0]
    fine, near, both, bits = _widths(centred, directions, max(rows, len(sample)))
    return Projection(mean, np.ascontiguousarray(directions[:, :both]), fine, near, rows, bits)


def _range(centred: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return an orthonormal basis (d, count) of about where the rows (n, d) vary most."""
    start = np.random.default_rng(0).normal(size=(centred.shape[1], count))
    reach = np.linalg.qr(centred.T @ (centred @ start))[0]
    for _ in range(2):
        reach = np.linalg.qr(centred.T @ (centred @ reach))[0]
    return reach


def _widths(
    centred: NDArray[np.float64], directions: NDArray[np.float64], rows: int
) -> tuple[int, int, int, int]:
    """Return the cheapest numbers of directions; all are 0 if a plain scan is.

    They are those of 8 bits, of the first level and of both; then come the bits beyond the first.
    The rows (n, d) are a sample of so many.
    """
    few = centred[:: -(-len(centred) // _COUNTED_ROWS)]
    queries = np.linspace(0, len(few) - 1, _COUNTED).astype(int)
    limits = _distances(few[queries], centred)
    limits[limits <= 3e-5 * np.linalg.norm(few[queries], axis=1)[:, None]] = np.inf  # it, and twins
    place = int(len(centred) * min(_NEIGHBOURS[0] / rows, _NEIGHBOURS[1]))  # of the sample's
    limits = np.partition(limits, place, axis=1)[:, place : place + 1]
    along, squares = few @ directions, np.einsum("ij,ij->i", few, few)
    eight, four = _lost(along, 255), _lost(along, 16)
    left: dict[tuple[int, int], float] = {}
    for width in _steps(directions.shape[1]):
        part = along[:, :width]
        rest = np.sqrt(np.maximum(0, squares - np.einsum("ij,ij->i", part, part)))
        short = np.column_stack([part, rest])
        beyond = _distances(short[queries], short) - limits
        for fine in [0, *_steps(width)]:
            error = np.sqrt(eight[:, fine] + four[:, width] - four[:, fine])
            left[fine, width] = float((beyond <= error).mean())
    return _cheapest(left, centred.shape[1])


def _cheapest(left: dict[tuple[int, int], float], dim: int) -> tuple[int, int, int, int]:
    """Return what :func:`_widths` does, for what share of rows each of the widths leaves.

    Of those that cost hardly more than the cheapest, the ones with the fewest bytes are taken.
    """
    row = _ROW_COST[0] + _ROW_COST[1] * dim
    found, least = [], np.inf
    widths = {width for _, width in left}
    options = [
        (fine, near, both, bits)
        for fine, near in left
        for both in widths
        if both >= near
        for bits in ((4, 8) if fine == near else (4,))
    ]
    for fine, near, both, bits in options:
        further = (both - near) * bits / 8
        read = fine + (near - fine) / 2 + _ROW_BYTES
        if read + further + _ROW_BYTES <= _MOST_BYTES * 4 * dim:
            first, second = left[fine, near], left[both if bits == 8 else fine, both]
            cost = read + first * (_SECOND_LEVEL_COST + further) + second * row
            found.append((cost, read + further, further, (fine, near, both, bits)))
            least = min(least, cost - first * (_SECOND_LEVEL_COST - _BESIDE_ALL))
    if least >= 0.5 * 4 * dim:
        return 0, 0, 0, 4
    least = min(cost for cost, *_ in found)
    return min(each[1:] for each in found if each[0] <= _ABOUT * least)[-1]


def _distances(some: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return about the distances (s, n) of some rows (s, m) to others (n, m)."""
    squares = [np.einsum("ij,ij->i", each, each) for each in (some, rows)]
    products = squares[1] + squares[0][:, None] - 2 * some @ rows.T
    distances: NDArray[np.float64] = np.sqrt(np.maximum(0, products))
    return distances


def _steps(most: int) -> list[int]:
    """Return some numbers of directions up to ``most``, a sixteenth or more apart."""
    steps = [STEP]
    while steps[-1] < most:
        steps.append(min(most, steps[-1] + max(1, steps[-1] // 16 // STEP) * STEP))
    return steps


def _lost(along: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Return the squared error (n, m + 1) of codes of so many levels in the first directions."""
    step = 2 * np.abs(along[:_TILE]).max(axis=0) / levels
    step = np.maximum(step, np.finfo(np.float64).tiny)
    errors = np.cumsum((along - (np.floor(along / step) + 0.5) * step) ** 2, axis=1)
    return np.pad(errors, ((0, 0), (1, 0)))


def write_projection_file(path: Path, projection: Projection) -> None:
    """Durably write a projection as an .npz of its fields."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **asdict(projection))


def read_projection(path: Path, dim: int) -> Projection:
    """Return the projection in a file; raise ValueError or OSError if it is not one of ``dim``."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            counts = (int(arrays[name]) for name in ("fine", "near", "rows", "far_bits"))
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
    with np.errstate(over="ignore", invalid="ignore"):  # altered ones may be as large as can be
        products = projection.directions.T @ projection.directions
        departure = np.linalg.norm(products - np.eye(count))
    widths = [0, projection.fine, projection.near, count]
    if sorted(widths) != widths or any(width % STEP for width in widths):
        return False
    if projection.far_bits not in {4, 8}:
        return False
    return bool(np.isfinite(projection.mean).all()) and bool(departure <= 1e-12)
