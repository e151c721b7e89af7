"""Lower bounds of Euclidean distances from codes of principal directions, and their files.

For a mean mu and a matrix V (d, m) with orthonormal columns, let p = V'(x - mu), and let r be the
length of the rest, x - mu - V p. With the same for a query q, Pythagoras and the triangle
inequality give

    |p - p_q|^2 + (r - r_q)^2  <=  |x - q|^2 = |p - p_q|^2 + |rest - rest_q|^2.

So the distance of the short rows b = [p, r] is a lower bound of the true distance, for any V and
mu, whatever they were fitted on. There are two levels: the first m1 directions with their own rest,
scanned for every row, and all m2 directions, looked at for the rows that the first level leaves.
What the second leaves is looked at itself, which lowers the limit.

Coordinates are stored as codes of 4 bits times a scale of the tile: c_j = (code_j - 7.5) scale_j
with codes from 0 to 15. The first f directions get 8 bits, as two such codes: c_j = (high_j - 7.5)
16 scale_j + (low_j - 7.5) scale_j. So a row of the first level has p = m1 + f codes. Those beyond
it have 4 bits or, where that leaves too many rows, 8: c_j = (code_j - 127.5) scale_j. Beside the
codes is the length e of the error b - [c, r*] that they cause, where r* is r in float32. The
triangle inequality takes care of it:

    |b - b_q| >= |[c, r*] - b_q| - e.

Rounding
--------
Let u = 2^-24 be the unit roundoff of float32; B the largest length of a [c, r*] of the segment, and
of the p products of codes and scales of a row; Q the length of b_q, in either level; stars mark
values computed in float32.

1. Projections are computed in float64 from float32 x, and r^2 as |x - mu|^2 - |p|^2. For d up to
   16,384, all errors of the sums and the departure of V from orthonormality (below 1e-12, checked
   when V is read) change these squares by less than 1e-10 |x - mu|^2, so b by less than
   ``SLACK`` = 1e-5 times |x - mu|. Errors e are raised by as much when they are stored, and every
   bound is loosened by ``margin`` = SLACK (B + Q) for the query; 3 uses the tenth part of it.
2. The first level computes s = [c, r*] . b_q - |[c, r*]|^2 / 2, so that |[c, r*] - b_q|^2 =
   Q^2 - 2 s. It is a sum of w = p + 2 products, in any order, of factors that were rounded to
   float32 at most three times, and with f coordinates of q twice the sum of their magnitudes is at
   most sqrt(2) B Q + B^2: |s* - s| <= ``error`` = (w + 6) (u (1.5 B Q + B^2) + 2^-120) (Higham,
   Accuracy and Stability of Numerical Algorithms, 3.1; the last term is for underflow). The
   compiled scan also rounds its weights: first_level.py derives what that adds.
3. The second level replaces (r1* - r1_q)^2 in Q^2 - 2 s* by the differences of the further
   directions and of their rest. The computed vector of differences departs from the real one by
   at most u (B + Q) and a relative u, and the float32 sum of m2 - m1 squares by a relative
   (m2 - m1 + 2) u. So, D* being the computed square and rho = (m2 - m1 + 8) u, the length
   |[c, r*] - b_q| is at least (1 - rho) sqrt(D* - 2 error) - margin.
4. Distances that are compared with these are computed in float64, with a relative error below
   1e-11; a limit is raised by a relative 1e-10 before a bound is compared with it.

A row is left out of an answer only if its lower bound exceeds the limit by all of that. Rows whose
squares float32 cannot hold (lengths above 1e15, or all below 1e-12) have no bounds, and queries
longer than 1e15 do without.
"""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128, xxh3_128_hexdigest

from imgsim.files import replacing
from imgsim.index.projection import Projection

TILE = 1_024
"""Rows that share the scales of their codes."""

LANES = 128
"""Rows whose codes of the first level lie side by side: one coordinate of all, then the next."""

MIDDLE = 7.5
"""What is taken from a code of 4 bits before it is scaled."""

WIDE_MIDDLE = 127.5
"""What is taken from a code of 8 bits before it is scaled."""

SLACK = 1e-5
"""What rounding may change the length of a projection by, relatively."""

LARGEST = 1e15
"""Rows and queries that are longer than this have no bounds."""

_UNIT = 2.0**-24
_SMALLEST = 1e-12
_HEADER_BYTES = 4_096
_FORMAT = 3


class Levels(NamedTuple):
    """The arrays of a bounds file, for n rows in t tiles and g groups of LANES.

    float32 are ``near_scale`` (t, p), ``far_scale`` (t, m2 - m1), ``near_error`` (g,),
    ``near_rest`` and ``half`` = |[c, r*]|^2 / 2 (g, LANES), and ``far_tail`` (n, 2), the rest and
    the error of the second level. The codes are ``near`` (g, p / 4, LANES) uint16, of which each
    holds four: the first in its bits 0 to 3, the second in 8 to 11, the third in 4 to 7, the last
    in 12 to 15; and ``far`` (n, (m2 - m1) / 2) uint8, with the first half of a row's codes in the
    lower bits, or with 8 bits (n, m2 - m1). The codes of the first level are f high ones, f low
    ones, and the others.
    """

    near_scale: NDArray[np.float32]
    far_scale: NDArray[np.float32]
    near_error: NDArray[np.float32]
    near_rest: NDArray[np.float32]
    half: NDArray[np.float32]
    far_tail: NDArray[np.float32]
    near: NDArray[np.uint16]
    far: NDArray[np.uint8]


class Bounds:
    """The bounds of one segment: ``levels``, mapped, and ``norm``, the B above."""

    def __init__(self, path: Path, rows: int, projection: Projection) -> None:
        """Map the file, or raise ValueError if it is not of ``rows`` rows and this projection.

        All of it is read, once, to compare its checksum.
        """
        header = _header_of(path, rows, projection)
        self.norm = float(header["norm"])
        mapped, arrays = np.asarray(np.memmap(path, np.uint8, "r", _HEADER_BYTES)), []
        if not _is_whole(mapped, str(header["xxh3_128"])):
            raise ValueError(f"{path}: has altered bytes")
        for shape, kind in _shapes(rows, projection):
            here, mapped = np.split(mapped, [_size((shape, kind))])
            arrays.append(here.view(kind).reshape(shape))
        self.levels = Levels(*arrays)


def margins(norm: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what bounds for queries of these lengths can be wrong by: Rounding, 1 and 3.

    ``norm`` is that of the bounds.
    """
    found: NDArray[np.float64] = SLACK * (norm + norms)
    return found


def errors(
    planes: int, norm: NDArray[np.float64], norms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what scores for queries of these lengths can be wrong by: Rounding, 2.

    ``norm`` is that of the bounds, and ``planes`` how many codes a row of the first level has.
    """
    found: NDArray[np.float64] = (planes + 8) * (_UNIT * norm * (1.5 * norms + norm) + 2.0**-120)
    return found


def _is_whole(mapped: NDArray[np.uint8], digest: str) -> bool:
    return xxh3_128_hexdigest(mapped.data) == digest


def are_there(path: Path, rows: int, projection: Projection) -> bool:
    """Say whether a file has the bounds of so many rows and this projection, by its header."""
    try:
        _header_of(path, rows, projection)
    except (OSError, ValueError):
        return False
    return True


def are_of_another(path: Path, projection: Projection) -> bool:
    """Say whether the file at ``path`` has bounds under another projection, which are of no use."""
    try:
        return bool(_header(path).get("basis") != projection.fingerprint)
    except (OSError, ValueError):
        return False


def _header_of(path: Path, rows: int, projection: Projection) -> dict[str, Any]:
    """Return the header of the file, or raise ValueError if it is not of these bounds."""
    header = _header(path)
    expected = {"format": _FORMAT, "rows": rows, "basis": projection.fingerprint}
    size = _HEADER_BYTES + sum(map(_size, _shapes(rows, projection)))
    if not expected.items() <= header.items() or path.stat().st_size != size:
        raise ValueError(f"{path}: not the bounds of {rows} rows under this projection")
    return header


def _header(path: Path) -> dict[str, Any]:
    """Return the header of the file, or raise ValueError if it is not what was written."""
    with path.open("rb") as file:
        header = json.loads(file.read(_HEADER_BYTES))
    if not isinstance(header, dict) or header.pop("header", "") != _digest(header):
        raise ValueError(f"{path}: not a file of bounds")
    return header


def _digest(header: dict[str, Any]) -> str:
    return xxh3_128_hexdigest(json.dumps(header).encode())


def _digest_of_rest(file: IO[bytes]) -> str:
    digest = xxh3_128()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def write_bounds(
    path: Path, rows: int, projection: Projection, blocks: Iterable[NDArray[np.float32]]
) -> None:
    """Durably write the bounds of a segment's rows, unless float32 cannot hold their squares.

    ``blocks`` are the rows in order, TILE at a time.
    """
    shapes = _shapes(rows, projection)
    places = [_HEADER_BYTES]
    for shape in shapes:
        places.append(places[-1] + _size(shape))
    norm = 0.0
    with suppress(OverflowError), replacing(path) as temporary, temporary.open("w+b") as file:
        for block in blocks:
            levels, longest = _tile(projection, block)
            norm = max(norm, longest)
            for number, array in enumerate(levels):
                content = array.tobytes()
                file.seek(places[number])
                file.write(content)  # a bare pwrite may stop half-way where the disk is full
                places[number] += len(content)
        if norm < _SMALLEST:
            raise OverflowError
        file.seek(_HEADER_BYTES)
        header = {
            "format": _FORMAT,
            "rows": rows,
            "basis": projection.fingerprint,
            "norm": norm,
            "xxh3_128": _digest_of_rest(file),
        }
        file.seek(0)
        whole = header | {"header": _digest(header)}
        file.write(json.dumps(whole).encode().ljust(_HEADER_BYTES))


def _tile(
    projection: Projection, rows: NDArray[np.float32]
) -> tuple[tuple[NDArray[Any], ...], float]:
    """Return the levels of one tile of rows, and the greatest length of a [c, r*]."""
    along, squares = projection.project(rows)
    rests, lengths = projection.rests(along, squares), np.sqrt(squares)
    if not lengths.max() < LARGEST:
        raise OverflowError
    fine, near = projection.fine, projection.near
    number = np.arange(along.shape[1])
    is_wide = (number < fine) | ((number >= near) & (projection.far_bits == 8))
    greatest = np.where(is_wide, WIDE_MIDDLE, MIDDLE)
    scale = (np.abs(along).max(axis=0) / greatest).astype(np.float32)
    codes = np.floor(along / np.where(scale > 0, scale, 1) + greatest + 0.5)
    codes = codes.clip(0, 2 * greatest)
    stored = (codes - greatest) * scale
    norm, lost, halves, narrow = 0.0, [], [], []
    for width, rest in zip((near, len(scale)), rests, strict=True):
        rounded = rest.astype(np.float32)
        off = along[:, :width] - stored[:, :width]
        error = np.sqrt(np.einsum("ij,ij->i", off, off) + (rest - rounded) ** 2) + SLACK * lengths
        squares = np.einsum("ij,ij->i", stored[:, :width], stored[:, :width])
        squares += rounded.astype(np.float64) ** 2
        norm = max(norm, float(np.sqrt(squares.max())))
        lost.append(np.nextafter(error.astype(np.float32), np.float32(np.inf)))
        halves.append((squares / 2).astype(np.float32))
        narrow.append(rounded)
    high, low = np.divmod(codes[:, :fine], 16)
    close = np.hstack([high, low, codes[:, fine:near]]).astype(np.uint16)
    scales = np.hstack([16 * scale[:fine], scale[:near]])
    further = codes[:, near:].astype(np.uint8)
    squares = np.square((close - MIDDLE) * scales).sum(axis=1)
    levels = Levels(
        near_scale=scales,
        far_scale=scale[near:],
        near_error=_grouped(lost[0]).max(axis=1),
        near_rest=_grouped(narrow[0]),
        half=_grouped(halves[0]),
        far_tail=np.column_stack([narrow[1], lost[1]]),
        near=_grouped(_fours(close)).transpose(0, 2, 1),
        far=further if projection.far_bits == 8 else _halves(further),
    )
    return levels, max(norm, float(np.sqrt(squares.max())))


def _fours(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return codes of 4 bits (n, 4 m) as the values (n, m) that hold four of them each."""
    first, second, third, last = codes.reshape(len(codes), -1, 4).transpose(2, 0, 1)
    return (first | second << 8 | third << 4 | last << 12).astype(np.uint16)


def _halves(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes of 4 bits (n, 2 m) as the values (n, m) that hold one of each half."""
    lower, upper = np.hsplit(codes, 2)
    return (lower | upper << 4).astype(np.uint8)


def _grouped(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values (n, ...) in groups of LANES (g, LANES, ...), the last filled with zeros."""
    groups = -(-len(values) // LANES)
    full = np.zeros((groups * LANES, *values.shape[1:]), values.dtype)
    full[: len(values)] = values
    return full.reshape(groups, LANES, *values.shape[1:])


def _shapes(rows: int, projection: Projection) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and type of each of the Levels of a segment."""
    planes, far = projection.planes, projection.far
    tiles, groups = -(-rows // TILE), -(-rows // LANES)
    floats: list[tuple[int, ...]] = [(tiles, planes), (tiles, far), (groups,)]
    floats += [(groups, LANES), (groups, LANES), (rows, 2)]
    codes = groups, planes // 4, LANES
    kinds = [(shape, np.dtype("<f4")) for shape in floats]
    return [
        *kinds,
        (codes, np.dtype("<u2")),
        ((rows, far * projection.far_bits // 8), np.dtype("u1")),
    ]


def _size(array: tuple[tuple[int, ...], np.dtype[Any]]) -> int:
    return math.prod(array[0]) * array[1].itemsize
