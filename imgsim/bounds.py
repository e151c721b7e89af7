"""Lower bounds of Euclidean distances from a few principal directions, and their files.

For a mean mu and a matrix V (d, m) with orthonormal columns, let p = V'(x - mu), and let r be the
length of the rest, x - mu - V p. With the same for a query q, Pythagoras and the reverse triangle
inequality give

    |x - q|^2 = |p - p_q|^2 + |rest - rest_q|^2 >= |p - p_q|^2 + (r - r_q)^2.

So the distance of the short vectors b = [p, r] is a lower bound of the true distance, for any V and
mu, whatever they were fitted on. There are two levels: the first m1 directions with their own rest,
scanned for every row, and all m2 directions, looked at for the rows that the first level leaves.

Rounding
--------
Let u = 2^-24 be the unit roundoff of float32, N the length of x - mu; stars mark computed values.

1. p and r are computed in float64 from float32 x, where all errors together are below 1e-10 N for d
   up to 16,384, and the departure of V from orthonormality (below 1e-12, checked when V is read)
   changes b by a relative 1e-12. Storing in float32 changes each value by a relative u. So
   |b* - b| <= 1.01 u |b*| and, with the largest |b*| of the rows B and that of the query Q,
   |x - q| >= |b*_x - b*_q| - slack, where slack = 2 u (B + Q) is nearly twice what is needed.
2. The first level computes s = b*_x . b*_q - |b*_x|^2 / 2 as a product of w = m1 + 2 terms in
   float32, in any order: |s* - s| <= error = (w + 2) (u (B Q + B^2 / 2) + 2^-126) (Higham, Accuracy
   and Stability of Numerical Algorithms, 3.1; the last term is for underflow), and
   |b*_x - b*_q|^2 = Q^2 - 2 s.
3. Distances that are compared with a limit t are computed in float64, with a relative error below
   1e-11.

A row may be left out of the answer only if its computed distance exceeds t. By 1 to 3 that is
certain if

    s* < (Q^2 - (t (1 + 1e-10) + slack)^2) / 2 - error.

The second level replaces the first's (r1 - r1_q)^2 in Q^2 - 2 s* by the differences of the further
directions and of their rest. A row is out if the sum exceeds

    (t (1 + 1e-10) + slack)^2 (1 + 2e-5) + 2 error,

where the factor covers the float32 sum of up to 257 squares of differences, of which none exceeds
t + slack if the row belongs to the answer.

Values whose squares float32 cannot hold (lengths above 1e15 or below 1e-12) get no bounds.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim.files import replacing

TILE = 8_192
"""Most columns of a tile of the first level; what the cache holds of it."""

GROUP = 32
"""A tile's width is a multiple of this, for the search looks at the maxima of groups of columns."""

LARGEST = 1e15
"""Rows and queries that are longer than this have no bounds."""

_SMALLEST = 1e-12
_HEADER_BYTES = 4_096
_MOST_DIRECTIONS = 256
_MOST_BYTES = 0.19  # of the vectors' own
_SAMPLE_BYTES = 64 << 20
_SURVIVOR_COST = 12_000  # bytes of scanning that a look at one survivor of level one is worth


@dataclass(frozen=True)
class Projected:
    """Rows as the bounds see them, (n, m) and (n,) float32; ``norms`` (n,) is the length of b*."""

    near: NDArray[np.float32]
    near_rest: NDArray[np.float32]
    far: NDArray[np.float32]
    far_rest: NDArray[np.float32]
    norms: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Basis:
    """A mean (d,) and orthonormal directions (d, m2) in float64, ``near`` of them in level one."""

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    near: int

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of the values."""
        digest = hashlib.sha256(self.mean.tobytes())
        digest.update(self.directions.tobytes())
        digest.update(str(self.near).encode())
        return digest.hexdigest()

    def project(self, rows: NDArray[np.float32]) -> Projected:
        """Return the projections of ``rows`` (n, d) float32."""
        centred = rows - self.mean
        along = centred @ self.directions
        rest = centred - along @ self.directions.T
        far_rest = np.sqrt(np.einsum("ij,ij->i", rest, rest))
        far = along[:, self.near :]
        near_rest = np.sqrt(np.einsum("ij,ij->i", far, far) + far_rest**2)
        near = along[:, : self.near]
        with np.errstate(over="ignore"):  # such rows are refused by their norm
            stored = [part.astype(np.float32) for part in (near, near_rest, far, far_rest)]
        near, near_rest = stored[0].astype(np.float64), stored[1].astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", near, near) + near_rest**2)
        return Projected(stored[0], stored[1], stored[2], stored[3], norms)


def sample_size(dim: int) -> int:
    """Return how many rows a sample for :func:`fit_basis` should have."""
    return max(1_024, min(16_384, _SAMPLE_BYTES // (4 * dim)))


def fit_basis(sample: NDArray[np.float32]) -> Basis:
    """Fit a basis to ``sample`` (n, d) float32: its mean and leading principal directions.

    The directions come from a randomised range finder with two power iterations (Halko, Martinsson,
    Tropp 2011, algorithm 4.4), in memory of a few times the sample. The widths of the levels are
    chosen by counting, within the sample, how many rows a search for ten neighbours would leave at
    each width. ``near`` is 0 if no width beats a plain scan: the vectors do not compress.
    """
    random = np.random.default_rng(0)
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean
    dim = sample.shape[1]
    most = min(_MOST_DIRECTIONS, int(_MOST_BYTES * dim) - 4, len(sample) // 4)
    if most < 4:
        return Basis(mean, np.zeros((dim, 0)), 0)
    reach = np.linalg.qr(centred.T @ (centred @ random.normal(size=(dim, min(dim, most + 16)))))[0]
    for _ in range(2):
        reach = np.linalg.qr(centred.T @ (centred @ reach))[0]
    _, turn = np.linalg.eigh(np.cov((centred @ reach).T))
    directions = np.linalg.qr(reach @ turn[:, ::-1][:, :most])[0]
    return Basis(mean, directions, _near_width(centred, directions))


def _near_width(centred: NDArray[np.float64], directions: NDArray[np.float64]) -> int:
    """Return the cheapest number of directions for the first level, 0 if a plain scan is."""
    n, dim = centred.shape
    queries = np.linspace(0, n - 1, 48).astype(int)
    along = centred @ directions
    squares = np.einsum("ij,ij->i", centred, centred)
    true = squares + squares[queries, None] - 2 * centred[queries] @ centred.T
    limits = np.partition(true, 10, axis=1)[:, 10]
    best, cheapest = 0, 0.5 * 4 * dim
    for width in range(6, directions.shape[1], 8):
        part = along[:, :width]
        rest = np.sqrt(np.maximum(0, squares - np.einsum("ij,ij->i", part, part)))
        short = np.column_stack([part, rest])
        lengths = np.einsum("ij,ij->i", short, short)
        bound = lengths + lengths[queries, None] - 2 * short[queries] @ short.T
        left = float((bound <= limits[:, None]).mean())
        cost = 4 * (width + 2) + left * _SURVIVOR_COST
        if cost < cheapest:
            best, cheapest = width, cost
    return best


def write_basis(path: Path, basis: Basis) -> None:
    """Durably write a basis as an .npz of ``mean``, ``directions`` and ``near``."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mean=basis.mean, directions=basis.directions, near=np.int64(basis.near))


def read_basis(path: Path, dim: int) -> Basis:
    """Return the basis in a file, or raise ValueError or OSError if it is not one of ``dim``."""
    try:
        with np.load(path) as arrays:
            basis = Basis(arrays["mean"], arrays["directions"], int(arrays["near"]))
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a basis") from error
    count = basis.directions.shape[-1]
    departure = basis.directions.T @ basis.directions - np.eye(count)
    if basis.mean.shape != (dim,) or not 0 <= basis.near <= count or _norm(departure) > 1e-12:
        raise ValueError(f"{path}: not an orthonormal basis of dimension {dim}")
    return basis


def _norm(matrix: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(matrix)) if matrix.size else 0.0


class Bounds:
    """The bound matrices of one segment, mapped.

    ``tiles`` (t, m1 + 2, width) holds columns [p, r, -|b*|^2 / 2], the last tile filled up with
    columns that lose every comparison; ``further`` (rows, m2 - m1 + 2) holds rows [p, r2, r1];
    ``norm`` is the largest |b*|.
    """

    def __init__(self, path: Path, rows: int, basis: Basis) -> None:
        """Map the file, or raise ValueError if it is not of ``rows`` rows and this basis."""
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER_BYTES))
        near, far = basis.near, basis.directions.shape[1]
        width = tile_width(rows)
        tiles = -(-rows // width)
        shape, further = (tiles, near + 2, width), (rows, far - near + 2)
        size = _HEADER_BYTES + 4 * (math.prod(shape) + math.prod(further))
        expected = {"format": 1, "rows": rows, "basis": basis.fingerprint}
        if not expected.items() <= header.items() or path.stat().st_size != size:
            raise ValueError(f"{path}: not the bounds of {rows} rows under this basis")
        self.norm = float(header["norm"])
        values = np.asarray(np.memmap(path, np.float32, "r", _HEADER_BYTES))
        self.tiles = values[: math.prod(shape)].reshape(shape)
        self.further = values[math.prod(shape) :].reshape(further)


def tile_width(rows: int) -> int:
    """Return the number of columns of each tile of a segment."""
    return min(TILE, -(-rows // GROUP) * GROUP)


def write_bounds(
    path: Path, rows: int, basis: Basis, blocks: Iterable[NDArray[np.float32]]
) -> None:
    """Durably write the bounds of a segment's rows, given in order, unless they can have none."""
    width = tile_width(rows)
    tiles = np.zeros((-(-rows // width), basis.near + 2, width), np.float32)
    tiles[:, -1] = -np.inf
    further = np.empty((rows, basis.directions.shape[1] - basis.near + 2), np.float32)
    start, norm = 0, 0.0
    for block in blocks:
        part = basis.project(block)
        norm = max(norm, float(part.norms.max()))
        if not norm < LARGEST:
            return
        half = (-(part.norms**2) / 2).astype(np.float32)
        columns = np.column_stack([part.near, part.near_rest, half])
        numbers = np.arange(start, start + len(block))
        tiles[numbers // width, :, numbers % width] = columns
        further[numbers] = np.column_stack([part.far, part.far_rest, part.near_rest])
        start += len(block)
    if norm < _SMALLEST:
        return
    payload = hashlib.sha256(tiles.data)
    payload.update(further.data)
    header = {
        "format": 1,
        "rows": rows,
        "basis": basis.fingerprint,
        "norm": norm,
        "sha256": payload.hexdigest(),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(json.dumps(header).encode().ljust(_HEADER_BYTES))
        file.write(tiles.data)
        file.write(further.data)
