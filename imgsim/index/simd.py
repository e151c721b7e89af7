"""Loops in vector instructions that numba does not find by itself.

Arrays are contiguous; their layouts are those of bounds.py.
"""

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types

from imgsim.index.bounds import LANES, MIDDLE
from imgsim.index.llvm import (
    FLOAT,
    INT,
    SUM,
    WORD,
    allocated,
    declared,
    everywhere,
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

CHUNK = 64
"""Scores that are compared at once."""

_AHEAD = 4_096  # words, as the processor does not go on beyond a page of memory
_HALF = 8  # values of 32 bits in a vector of AVX2
_PAIRS = ir.VectorType(WORD, _HALF)


@intrinsic
def reached(_: Any, scores: Any, place: Any, threshold: Any) -> Any:
    """Return a bit for each of CHUNK scores from that place of a flat view: if it is not below."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (pointer,) = pointers_of(context, builder, signature, arguments[:1])
        some = loaded(builder, pointer, arguments[1], ir.VectorType(FLOAT, CHUNK))
        least = everywhere(builder, arguments[2], some.type)
        return builder.bitcast(builder.fcmp_ordered(">=", some, least), INT)

    return types.uint64(scores, types.intp, types.float32), generate


@intrinsic
def lowest(_: Any, bits: Any) -> Any:
    """Return the number of the lowest bit that is set; one is."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def fetch(_: Any, array: Any, place: Any) -> Any:
    """Ask for what lies at that place of a flat view of the array, which will be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (pointer,) = pointers_of(context, builder, signature, arguments[:1])
        _fetch(builder, pointer, arguments[1])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _fetch(builder: Any, pointer: Any, at: Any) -> None:
    address = builder.bitcast(builder.gep(pointer, [at]), ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [address.type, WORD, WORD, WORD])
    function = declared(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, WORD(0), WORD(3), WORD(1)])  # to read, and keep


@intrinsic
def square_of_codes(_: Any, codes: Any, scale: Any, coordinates: Any) -> Any:
    """Return the square of the distance of ``far`` codes (m / 2,) times scale (m,) to coordinates.

    Those are (m,), and m is a multiple of 16.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, scales, others = pointers_of(context, builder, signature, arguments)
        half = builder.extract_value(shape_of(context, builder, signature, arguments, 0), 0)
        floats, octet = ir.VectorType(FLOAT, _HALF), ir.VectorType(ir.IntType(8), _HALF)
        totals = [allocated(builder, floats([0.0] * _HALF)) for _ in range(2)]
        with loop_by(builder, INT(0), half, INT(_HALF)) as (start, _):
            both = loaded(builder, bits, start, octet)
            lower = builder.and_(both, octet([15] * _HALF)), start
            upper = builder.lshr(both, octet([4] * _HALF)), builder.add(start, half)
            for total, (some, at) in zip(totals, (lower, upper), strict=True):
                value = builder.sitofp(builder.zext(some, _PAIRS), floats)
                value = builder.fsub(value, floats([MIDDLE] * _HALF))
                value = builder.fmul(value, loaded(builder, scales, at, floats), flags=SUM)
                value = builder.fsub(value, loaded(builder, others, at, floats), flags=SUM)
                square = builder.fmul(value, value, flags=SUM)
                builder.store(builder.fadd(builder.load(total), square, flags=SUM), total)
        total = builder.fadd(*map(builder.load, totals))
        return reduce(
            builder.fadd, (builder.extract_element(total, INT(lane)) for lane in range(_HALF))
        )

    return types.float32(codes, scale, coordinates), generate


def _adding(queries: int, rows: int) -> Any:
    """Return a function that adds the products of ``near`` codes and weights to scores.

    Its arguments are codes (n, p / 4, LANES) uint16; blocks (b + 1,) int64, where blocks of codes
    begin; pairs (p / 4, l, 2) uint32, the weights in ``l`` lanes, as rounding.py writes them;
    factors (b, l) and scores (s, q, LANES) float32; and which n, how many blocks, which lane, s and
    q are meant, of ``queries`` the first. Arrays come whole, as numba counts the references to each
    slice, which takes as long as many products. The sums of so many ``rows`` are in registers at
    the same time; of more where these are more and longer.
    """

    @intrinsic
    def add(
        _: Any, codes: Any, blocks: Any, pairs: Any, factors: Any, scores: Any, which: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            row, count, lane, place, query = unpacked(builder, arguments[5])
            pointers = pointers_of(context, builder, signature, arguments[:5])
            for number, start in ((0, row), (4, place)):
                shape = shape_of(context, builder, signature, arguments, number)
                size = reduce(builder.mul, unpacked(builder, shape)[1:])
                pointers[number] = builder.gep(pointers[number], [builder.mul(start, size)])
            lanes = builder.extract_value(shape_of(context, builder, signature, arguments, 2), 1)
            pointers[2] = builder.gep(pointers[2], [builder.mul(lane, INT(2))])
            pointers[3] = builder.gep(pointers[3], [lane])
            pointers[4] = builder.gep(pointers[4], [builder.mul(query, INT(LANES))])
            kernel, width = kernel_of(context)
            # with VNNI, sums take twice the registers, of which AVX2 alone has 16
            once = rows // 2 if (kernel, width) == (Fours, 16) else rows
            once = min(LANES, once * width // 16)
            kernel(builder, pointers, width, queries).write(count, lanes, once)
            return context.get_dummy_value()

        numbers = tuple_of(types.intp, 5)
        return types.void(codes, blocks, pairs, factors, scores, numbers), generate

    return add


def kernel_of(context: Any) -> tuple[type["_Kernel"], int]:
    """Return what multiplies where this is compiled for, and how many words at once."""
    features = context.codegen().magic_tuple()[2].split(",")
    if "+avx512bw" in features:
        return Fours if "+avx512vnni" in features else _Pairs, 32
    if "+avx2" in features:
        return Fours if "+avxvnni" in features else _Pairs, 16
    return _Kernel, 16


class _Kernel:
    """Writes the instructions of what :func:`_adding` returns: sums of pairs, in 16 bits."""

    def __init__(self, builder: Any, pointers: list[Any], width: int, queries: int) -> None:
        self._codes, self._blocks, self._pairs, self._factors, self._scores = pointers
        self._builder, self._width, self._queries = builder, width, queries
        self._bytes = ir.VectorType(ir.IntType(8), 2 * width)
        self._words = ir.VectorType(ir.IntType(16), width)
        self._integers = ir.VectorType(WORD, width // 2)

    def write(self, blocks: Any, lanes: Any, rows: int) -> None:
        """Write all of it, for so many blocks, and weights in so many lanes."""
        builder, nothing = self._builder, self._nothing()
        count = rows // nothing.type.count
        sums = [[allocated(builder, nothing) for _ in range(count)] for _ in range(self._queries)]
        with loop(builder, INT(LANES // rows)) as part:
            lane = builder.mul(part.index, INT(rows))
            with loop(builder, blocks) as block:
                for total in (total for query in sums for total in query):
                    builder.store(nothing, total)
                following = builder.add(block.index, INT(1))
                start, stop = (
                    builder.udiv(builder.load(builder.gep(self._blocks, [place])), INT(4))
                    for place in (block.index, following)
                )
                with loop_by(builder, start, stop, INT(1)) as (number, _):
                    lower, upper = self._codes_of(number, lane, rows)
                    weights = builder.mul(number, builder.mul(lanes, INT(2)))
                    for query, totals in enumerate(sums):
                        place = builder.add(weights, INT(2 * query))
                        self._add_products(lower, upper, place, totals)
                self._add_to_scores(builder.mul(block.index, lanes), lane, sums)

    def _codes_of(self, number: Any, lane: Any, rows: int) -> tuple[list[Any], list[Any]]:
        """Return of four codes of some rows the first two, and the others, in words."""
        builder, words, width = self._builder, self._words, self._width
        mask, four = words([0x0F0F] * width), words([4] * width)
        row = builder.add(builder.mul(number, INT(LANES)), lane)
        lower, upper = [], []
        for at in range(0, rows if self._queries == 1 else 0, 32):
            _fetch(builder, self._codes, builder.add(row, INT(_AHEAD + at)))
        for at in range(0, rows, width):
            fours = loaded(builder, self._codes, builder.add(row, INT(at)), words)
            lower.append(builder.and_(fours, mask))
            upper.append(builder.and_(builder.lshr(fours, four), mask))
        return lower, upper

    def _weights(self, place: Any) -> Any:
        """Return the four bytes at that place, over and over."""
        value = self._builder.load(self._builder.gep(self._pairs, [place]))
        return everywhere(self._builder, value, self._integers)

    def _nothing(self) -> Any:
        """Return a vector of sums that are 0."""
        return self._words([0] * self._width)

    def _add_products(
        self, lower: list[Any], upper: list[Any], place: Any, sums: list[Any]
    ) -> None:
        builder = self._builder
        for half, some in enumerate((lower, upper)):
            pair = builder.bitcast(self._weights(builder.add(place, INT(half))), self._bytes)
            for total, codes in zip(sums, some, strict=True):
                products = self._multiplied(builder.bitcast(codes, self._bytes), pair)
                builder.store(builder.add(builder.load(total), products), total)

    def _multiplied(self, codes: Any, weights: Any) -> Any:
        """Return the sums of two products each of unsigned and signed bytes, in 16 bits."""
        builder, double = self._builder, ir.VectorType(ir.IntType(16), 2 * self._width)
        products = builder.mul(builder.zext(codes, double), builder.sext(weights, double))
        order = ir.VectorType(WORD, self._width)
        first, second = (
            builder.shuffle_vector(products, products, order(list(range(start, double.count, 2))))
            for start in range(2)
        )
        return builder.add(first, second)

    def _wide(self, sums: list[Any]) -> list[Any]:
        """Return sums in 32 bits, in the order of rows."""
        wide = ir.VectorType(WORD, self._width)
        return [self._builder.sext(self._builder.load(total), wide) for total in sums]

    def _add_to_scores(self, factors: Any, lane: Any, sums: list[list[Any]]) -> None:
        builder = self._builder
        for query, vectors in enumerate(sums):
            place = builder.gep(self._factors, [builder.add(factors, INT(query))])
            factor = builder.load(place)
            for number, whole in enumerate(self._wide(vectors)):
                floats = ir.VectorType(FLOAT, whole.type.count)
                at = builder.add(lane, INT(LANES * query + floats.count * number))
                product = builder.sitofp(whole, floats)
                product = builder.fmul(product, everywhere(builder, factor, floats), flags=SUM)
                before = loaded(builder, self._scores, at, floats)
                stored(builder, builder.fadd(before, product, flags=SUM), self._scores, at)


class _Pairs(_Kernel):
    """Does so by AVX2, or AVX-512."""

    def _multiplied(self, codes: Any, weights: Any) -> Any:
        name = "avx512.pmaddubs.w.512" if self._width == 32 else "avx2.pmadd.ub.sw"
        kind = ir.FunctionType(self._words, [self._bytes, self._bytes])
        function = declared(self._builder.module, kind, f"llvm.x86.{name}")
        return self._builder.call(function, [codes, weights])


class Fours(_Kernel):
    """Adds four products at once, in 32 bits, by VNNI."""

    def _nothing(self) -> Any:
        return self._integers([0] * self._integers.count)

    def _add_products(
        self, lower: list[Any], upper: list[Any], place: Any, sums: list[Any]
    ) -> None:
        builder, kind = self._builder, self._integers
        kinds = ir.FunctionType(kind, [kind, kind, kind])
        name = f"llvm.x86.avx512.vpdpbusd.{32 * kind.count}"
        function, weights = declared(builder.module, kinds, name), self._weights(place)
        codes = [
            builder.bitcast(builder.shuffle_vector(*both, self._side_by_side(half)), kind)
            for both in zip(lower, upper, strict=True)
            for half in range(2)
        ]
        for total, some in zip(sums, codes, strict=True):
            builder.store(builder.call(function, [builder.load(total), some, weights]), total)

    def _side_by_side(self, half: int) -> Any:
        """Return the order that puts words of two vectors side by side, of half of the rows.

        That is half of each 128 bits, as an instruction does it.
        """
        rows = [row for row in range(self._width) if row // 4 % 2 == half]
        places = [place for row in rows for place in (row, self._width + row)]
        return ir.VectorType(WORD, self._width)(places)

    def _wide(self, sums: list[Any]) -> list[Any]:
        builder, count = self._builder, self._integers.count
        loaded, wide = [builder.load(total) for total in sums], []
        for both in zip(loaded[::2], loaded[1::2], strict=True):
            for start in (0, count):
                rows = range(start, start + count)
                places = [row // 4 % 2 * count + row // 8 * 4 + row % 4 for row in rows]
                order = ir.VectorType(WORD, count)(places)
                wide.append(builder.shuffle_vector(*both, order))
        return wide


add_to_one, add_to_four = _adding(1, 128), _adding(4, 32)
