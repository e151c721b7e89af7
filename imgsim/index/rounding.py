"""The weights of codes, rounded to signed bytes that share a factor."""

from typing import Any

from llvmlite import ir
from numba import types

from imgsim.index.bounds import MIDDLE
from imgsim.index.llvm import (
    FLOAT,
    INT,
    SUM,
    WORD,
    allocated,
    declared,
    intrinsic,
    loaded,
    loop,
    loop_by,
    pointers_of,
    shape_of,
    stored,
    tuple_of,
    unpacked,
)
from imgsim.index.simd import Fours, kernel_of

TOGETHER = 16
"""Lanes that are rounded at the same time."""

_MOST = 2_150  # of the sum of |k_j|, before the k_j are rounded: 15 (2,150 + 64 / 2) < 2^15
_LEAST = 1e-35  # a factor below is 0: float32 has no digits left


@intrinsic
def round_lanes(
    _: Any, exact: Any, inverse: Any, reach: Any, pairs: Any, sums: Any, which: Any
) -> Any:
    """Round the weights of a block of codes, in TOGETHER lanes; first_level.py says how.

    ``exact`` (c, l) float32 are the w_j in ``l`` lanes, and the e_j afterwards; ``inverse`` (c, l)
    the 1 / s_j, and ``reach`` (l,) what |c| is at most. The k_j are written to ``pairs`` (m, l, 2)
    uint32: of four codes the first two and the others, two bytes each, and beside them what
    products want there. To ``sums`` (n, 4, l) float32 go the factor, the offset, what the e_j
    change, and A. ``which`` are how many codes there are, a multiple of four; the place among the
    pairs; the n; and the lane.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count, place, block, lane = unpacked(builder, arguments[5])
        pointers = pointers_of(context, builder, signature, arguments[:5])
        lanes = builder.extract_value(shape_of(context, builder, signature, arguments, 0), 1)
        pointers[:3] = (builder.gep(pointer, [lane]) for pointer in pointers[:3])
        start = builder.add(builder.mul(place, lanes), lane)
        pointers[3] = builder.gep(pointers[3], [builder.mul(start, INT(2))])
        place = builder.add(builder.mul(block, builder.mul(lanes, INT(4))), lane)
        pointers[4] = builder.gep(pointers[4], [place])
        _Rounding(builder, pointers, lanes, kernel_of(context)[0] is Fours).write(count)
        return context.get_dummy_value()

    numbers = tuple_of(types.intp, 4)
    return types.void(exact, inverse, reach, pairs, sums, numbers), generate


class _Rounding:
    """Writes the instructions of :func:`round_lanes`."""

    def __init__(self, builder: Any, pointers: list[Any], lanes: Any, is_of_four: bool) -> None:
        self._exact, self._inverse, self._reach, self._pairs, self._sums = pointers
        self._builder, self._lanes, self._is_of_four = builder, lanes, is_of_four
        self._floats = ir.VectorType(FLOAT, TOGETHER)
        self._integers = ir.VectorType(WORD, TOGETHER)

    def write(self, count: Any) -> None:
        """Write all of it, for so many codes."""
        builder = self._builder
        factor, times = self._factors(count)
        totals = [self._zero() for _ in range(4)]
        with loop_by(builder, INT(0), count, INT(4)) as (number, _):
            wholes = [
                self._round(builder.add(number, INT(code)), factor, times, totals)
                for code in range(4)
            ]
            lower, upper = (
                builder.or_(wholes[at], builder.shl(wholes[at + 1], self._all(8))) for at in (0, 2)
            )
            self._write_pairs(builder.mul(number, self._lanes), lower, upper)
        whole, magnitude, lost, moved = map(builder.load, totals)
        change = builder.fmul(lost, self._single(MIDDLE))
        length = self._call("sqrt", builder.fadd(moved, self._single(1e-36)))
        length = builder.fmul(length, loaded(builder, self._reach, INT(0), self._floats))
        change = builder.select(builder.fcmp_ordered("<", length, change), length, change)
        offset = builder.fmul(builder.fmul(factor, self._single(-MIDDLE)), whole)
        magnitude = builder.fmul(builder.fmul(factor, self._single(2 * MIDDLE)), magnitude)
        for number, value in enumerate((factor, offset, change, magnitude)):
            stored(builder, value, self._sums, builder.mul(self._lanes, INT(number)))

    def _factors(self, count: Any) -> tuple[Any, Any]:
        """Return the factors of the lanes, and their inverses; 0 where a factor would be."""
        builder, greatest, total = self._builder, self._zero(), self._zero()
        with loop(builder, count) as code:
            at = builder.mul(code.index, self._lanes)
            size = self._call("fabs", loaded(builder, self._exact, at, self._floats))
            is_greater = builder.fcmp_ordered(">", size, builder.load(greatest))
            builder.store(builder.select(is_greater, size, builder.load(greatest)), greatest)
            builder.store(builder.fadd(builder.load(total), size), total)
        one = builder.fdiv(builder.load(greatest), self._single(127.0))
        other = builder.fdiv(builder.load(total), self._single(_MOST))
        factor = builder.select(builder.fcmp_ordered(">", one, other), one, other)
        is_factor = builder.fcmp_ordered(">=", factor, self._single(_LEAST))
        times, nothing = builder.fdiv(self._single(1.0), factor), self._single(0.0)
        return tuple(builder.select(is_factor, each, nothing) for each in (factor, times))

    def _round(self, code: Any, factor: Any, times: Any, totals: list[Any]) -> Any:
        """Write what is left of the weights of a code, and return them rounded, as bytes."""
        builder, at = self._builder, self._builder.mul(code, self._lanes)
        exact = loaded(builder, self._exact, at, self._floats)
        whole = self._call("rint", builder.fmul(exact, times))
        rest = builder.fsub(exact, builder.fmul(whole, factor, flags=SUM), flags=SUM)
        stored(builder, rest, self._exact, at)
        moved = builder.fmul(rest, loaded(builder, self._inverse, at, self._floats))
        sizes = self._call("fabs", whole), self._call("fabs", rest)
        square = builder.fmul(moved, moved, flags=SUM)
        for total, value in zip(totals, (whole, *sizes, square), strict=True):
            builder.store(builder.fadd(builder.load(total), value, flags=SUM), total)
        return builder.and_(builder.fptosi(whole, self._integers), self._all(255))

    def _write_pairs(self, at: Any, lower: Any, upper: Any) -> None:
        """Write pairs of weights beside what products want there; the place is twice theirs.

        Where these are added by two, it is the same pair again.
        """
        builder = self._builder
        both = [
            builder.or_(first, builder.shl(other if self._is_of_four else first, self._all(16)))
            for first, other in ((lower, upper), (upper, lower))
        ]
        order = [place for lane in range(TOGETHER) for place in (lane, TOGETHER + lane)]
        mixed = builder.shuffle_vector(*both, ir.VectorType(WORD, 2 * TOGETHER)(order))
        stored(builder, mixed, self._pairs, builder.udiv(at, INT(2)))

    def _call(self, name: str, value: Any) -> Any:
        kind = ir.FunctionType(self._floats, [self._floats])
        function = declared(self._builder.module, kind, f"llvm.{name}.v{TOGETHER}f32")
        return self._builder.call(function, [value])

    def _zero(self) -> Any:
        return allocated(self._builder, self._single(0.0))

    def _single(self, value: float) -> Any:
        return self._floats([value] * TOGETHER)

    def _all(self, value: int) -> Any:
        return self._integers([value] * TOGETHER)
