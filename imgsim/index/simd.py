"""Loops in vector instructions that numba does not find by itself.

Arrays are contiguous; their layouts are those of bounds.py.
"""

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

from imgsim.index.bounds import LANES, MIDDLE

CHUNK = 64
"""Scores that are compared at once."""

_intrinsic: Any = extending.intrinsic
_allocated: Any = cgutils.alloca_once_value
_declared: Any = cgutils.get_or_insert_function
_unpacked: Any = cgutils.unpack_tuple
_tuple: Any = types.UniTuple

_HALF = 8  # values of 32 bits in a vector of AVX2
_INT, _FLOAT = ir.IntType(64), ir.FloatType()
_PAIRS = ir.VectorType(ir.IntType(32), _HALF)
_SUM = ("contract",)


@_intrinsic
def reached(_: Any, scores: Any, place: Any, threshold: Any) -> Any:
    """Return a bit for each of CHUNK scores from that place of a flat view: if it is not below."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (pointer,) = _pointers(context, builder, signature, arguments[:1])
        some = _loaded(builder, pointer, arguments[1], ir.VectorType(_FLOAT, CHUNK))
        least = _everywhere(builder, arguments[2], some.type)
        return builder.bitcast(builder.fcmp_ordered(">=", some, least), _INT)

    return types.uint64(scores, types.intp, types.float32), generate


@_intrinsic
def lowest(_: Any, bits: Any) -> Any:
    """Return the number of the lowest bit that is set; one is."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@_intrinsic
def fetch(_: Any, array: Any, place: Any) -> Any:
    """Ask for what lies at that place of a flat view of the array, which will be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (pointer,) = _pointers(context, builder, signature, arguments[:1])
        address = builder.gep(pointer, [arguments[1]])
        address = builder.bitcast(address, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        function = _declared(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, and keep
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@_intrinsic
def square_of_codes(_: Any, codes: Any, scale: Any, coordinates: Any) -> Any:
    """Return the square of the distance of ``far`` codes (m / 2,) times scale (m,) to coordinates.

    Those are (m,), and m is a multiple of 16.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits, scales, others = _pointers(context, builder, signature, arguments)
        half = builder.extract_value(_shape(context, builder, signature, arguments, 0), 0)
        floats, octet = ir.VectorType(_FLOAT, _HALF), ir.VectorType(ir.IntType(8), _HALF)
        totals = [_allocated(builder, floats([0.0] * _HALF)) for _ in range(2)]
        with cgutils.for_range_slice(builder, _INT(0), half, _INT(_HALF)) as (start, _):
            both = _loaded(builder, bits, start, octet)
            lower = builder.and_(both, octet([15] * _HALF)), start
            upper = builder.lshr(both, octet([4] * _HALF)), builder.add(start, half)
            for total, (some, at) in zip(totals, (lower, upper), strict=True):
                value = builder.sitofp(builder.zext(some, _PAIRS), floats)
                value = builder.fsub(value, floats([MIDDLE] * _HALF))
                value = builder.fmul(value, _loaded(builder, scales, at, floats), flags=_SUM)
                value = builder.fsub(value, _loaded(builder, others, at, floats), flags=_SUM)
                square = builder.fmul(value, value, flags=_SUM)
                builder.store(builder.fadd(builder.load(total), square, flags=_SUM), total)
        total = builder.fadd(*map(builder.load, totals))
        return reduce(
            builder.fadd, (builder.extract_element(total, _INT(lane)) for lane in range(_HALF))
        )

    return types.float32(codes, scale, coordinates), generate


@_intrinsic
def beside(_: Any, first: Any, second: Any) -> Any:
    """Return the weights of two codes, a byte each, beside those of two others, for products.

    Where these are added by two, it is the first weights twice.
    """

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        lower, upper = arguments
        others = upper if _kernel_of(context)[0] is _Fours else lower
        return builder.or_(lower, builder.shl(others, others.type(16)))

    return types.uint32(types.uint32, types.uint32), generate


def _adding(queries: int, rows: int) -> Any:
    """Return a function that adds the products of ``near`` codes and weights to scores.

    Its arguments are codes (n, p / 4, LANES) uint16; blocks (b + 1,) int64, where blocks of codes
    begin; pairs (g, m, t, 2) uint32, the weights of ``t`` queries by :func:`beside`; factors
    (g, b, t) and scores (s, g t, LANES) float32; and which n, b, g and s are meant: of n, g and s
    that one, of b as many. Arrays come whole, as numba counts the references to each slice, which
    takes as long as many products. The sums of so many ``rows`` are in registers at the same time;
    of more where these are more and longer.
    """

    @_intrinsic
    def add(
        _: Any, codes: Any, blocks: Any, pairs: Any, factors: Any, scores: Any, which: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            row, count, group, place = _unpacked(builder, arguments[5])
            pointers = _pointers(context, builder, signature, arguments[:5])
            for number, start in ((0, row), (2, group), (3, group), (4, place)):
                shape = _shape(context, builder, signature, arguments, number)
                size = reduce(builder.mul, _unpacked(builder, shape)[1:])
                pointers[number] = builder.gep(pointers[number], [builder.mul(start, size)])
            query = builder.mul(group, _INT(LANES * queries))
            pointers[4] = builder.gep(pointers[4], [query])
            kernel, width = _kernel_of(context)
            # with VNNI, sums take twice the registers, of which AVX2 alone has 16
            once = rows // 2 if (kernel, width) == (_Fours, 16) else rows
            kernel(builder, pointers, width, queries).write(count, min(LANES, once * width // 16))
            return context.get_dummy_value()

        numbers = _tuple(types.intp, 4)
        return types.void(codes, blocks, pairs, factors, scores, numbers), generate

    return add


def _kernel_of(context: Any) -> tuple[type["_Kernel"], int]:
    """Return what multiplies where this is compiled for, and how many words at once."""
    features = context.codegen().magic_tuple()[2].split(",")
    if "+avx512bw" in features:
        return _Fours if "+avx512vnni" in features else _Pairs, 32
    if "+avx2" in features:
        return _Fours if "+avxvnni" in features else _Pairs, 16
    return _Kernel, 16


class _Kernel:
    """Writes the instructions of what :func:`_adding` returns: sums of pairs, in 16 bits."""

    def __init__(self, builder: Any, pointers: list[Any], width: int, queries: int) -> None:
        self._codes, self._blocks, self._pairs, self._factors, self._scores = pointers
        self._builder, self._width, self._queries = builder, width, queries
        self._bytes = ir.VectorType(ir.IntType(8), 2 * width)
        self._words = ir.VectorType(ir.IntType(16), width)
        self._integers = ir.VectorType(ir.IntType(32), width // 2)

    def write(self, blocks: Any, rows: int) -> None:
        """Write all of it, for so many blocks."""
        builder, nothing = self._builder, self._nothing()
        count = rows // nothing.type.count
        sums = [[_allocated(builder, nothing) for _ in range(count)] for _ in range(self._queries)]
        with cgutils.for_range(builder, _INT(LANES // rows)) as part:
            lane = builder.mul(part.index, _INT(rows))
            with cgutils.for_range(builder, blocks) as block:
                for total in (total for query in sums for total in query):
                    builder.store(nothing, total)
                following = builder.add(block.index, _INT(1))
                start, stop = (
                    builder.udiv(builder.load(builder.gep(self._blocks, [place])), _INT(4))
                    for place in (block.index, following)
                )
                with cgutils.for_range_slice(builder, start, stop, _INT(1)) as (number, _):
                    lower, upper = self._codes_of(number, lane, rows)
                    weights = builder.mul(number, _INT(2 * self._queries))
                    for query, totals in enumerate(sums):
                        place = builder.add(weights, _INT(2 * query))
                        self._add_products(lower, upper, place, totals)
                self._add_to_scores(block.index, lane, sums)

    def _codes_of(self, number: Any, lane: Any, rows: int) -> tuple[list[Any], list[Any]]:
        """Return of four codes of some rows the first two, and the others, in words."""
        builder, words, width = self._builder, self._words, self._width
        mask, four = words([0x0F0F] * width), words([4] * width)
        row = builder.add(builder.mul(number, _INT(LANES)), lane)
        lower, upper = [], []
        for at in range(0, rows, width):
            fours = _loaded(builder, self._codes, builder.add(row, _INT(at)), words)
            lower.append(builder.and_(fours, mask))
            upper.append(builder.and_(builder.lshr(fours, four), mask))
        return lower, upper

    def _weights(self, place: Any) -> Any:
        """Return the four bytes at that place, over and over."""
        value = self._builder.load(self._builder.gep(self._pairs, [place]))
        return _everywhere(self._builder, value, self._integers)

    def _nothing(self) -> Any:
        """Return a vector of sums that are 0."""
        return self._words([0] * self._width)

    def _add_products(
        self, lower: list[Any], upper: list[Any], place: Any, sums: list[Any]
    ) -> None:
        builder = self._builder
        for half, some in enumerate((lower, upper)):
            pair = builder.bitcast(self._weights(builder.add(place, _INT(half))), self._bytes)
            for total, codes in zip(sums, some, strict=True):
                products = self._multiplied(builder.bitcast(codes, self._bytes), pair)
                builder.store(builder.add(builder.load(total), products), total)

    def _multiplied(self, codes: Any, weights: Any) -> Any:
        """Return the sums of two products each of unsigned and signed bytes, in 16 bits."""
        builder, double = self._builder, ir.VectorType(ir.IntType(16), 2 * self._width)
        products = builder.mul(builder.zext(codes, double), builder.sext(weights, double))
        order = ir.VectorType(ir.IntType(32), self._width)
        first, second = (
            builder.shuffle_vector(products, products, order(list(range(start, double.count, 2))))
            for start in range(2)
        )
        return builder.add(first, second)

    def _wide(self, sums: list[Any]) -> list[Any]:
        """Return sums in 32 bits, in the order of rows."""
        wide = ir.VectorType(ir.IntType(32), self._width)
        return [self._builder.sext(self._builder.load(total), wide) for total in sums]

    def _add_to_scores(self, block: Any, lane: Any, sums: list[list[Any]]) -> None:
        builder = self._builder
        for query, vectors in enumerate(sums):
            place = builder.add(builder.mul(block, _INT(self._queries)), _INT(query))
            factor = builder.load(builder.gep(self._factors, [place]))
            for number, whole in enumerate(self._wide(vectors)):
                floats = ir.VectorType(_FLOAT, whole.type.count)
                at = builder.add(lane, _INT(LANES * query + floats.count * number))
                product = builder.sitofp(whole, floats)
                product = builder.fmul(product, _everywhere(builder, factor, floats), flags=_SUM)
                before = _loaded(builder, self._scores, at, floats)
                score = _vector(builder, self._scores, at, floats)
                builder.store(builder.fadd(before, product, flags=_SUM), score, align=1)


class _Pairs(_Kernel):
    """Does so by AVX2, or AVX-512."""

    def _multiplied(self, codes: Any, weights: Any) -> Any:
        name = "avx512.pmaddubs.w.512" if self._width == 32 else "avx2.pmadd.ub.sw"
        kind = ir.FunctionType(self._words, [self._bytes, self._bytes])
        function = _declared(self._builder.module, kind, f"llvm.x86.{name}")
        return self._builder.call(function, [codes, weights])


class _Fours(_Kernel):
    """Adds four products at once, in 32 bits, by VNNI."""

    def _nothing(self) -> Any:
        return self._integers([0] * self._integers.count)

    def _add_products(
        self, lower: list[Any], upper: list[Any], place: Any, sums: list[Any]
    ) -> None:
        builder, kind = self._builder, self._integers
        kinds = ir.FunctionType(kind, [kind, kind, kind])
        name = f"llvm.x86.avx512.vpdpbusd.{32 * kind.count}"
        function, weights = _declared(builder.module, kinds, name), self._weights(place)
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
        return ir.VectorType(ir.IntType(32), self._width)(places)

    def _wide(self, sums: list[Any]) -> list[Any]:
        builder, count = self._builder, self._integers.count
        loaded, wide = [builder.load(total) for total in sums], []
        for both in zip(loaded[::2], loaded[1::2], strict=True):
            for start in (0, count):
                rows = range(start, start + count)
                places = [row // 4 % 2 * count + row // 8 * 4 + row % 4 for row in rows]
                order = ir.VectorType(ir.IntType(32), count)(places)
                wide.append(builder.shuffle_vector(*both, order))
        return wide


def _pointers(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return where the values of the first arguments begin, which are arrays."""
    kinds = zip(signature.args, arguments, strict=False)
    return [context.make_array(kind)(context, builder, value).data for kind, value in kinds]


def _shape(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    """Return the shape of the array that is argument ``number``."""
    return context.make_array(signature.args[number])(context, builder, arguments[number]).shape


def _vector(builder: Any, pointer: Any, at: Any, kind: Any) -> Any:
    """Return a pointer to the vector at that place of an array."""
    return builder.bitcast(builder.gep(pointer, [at]), kind.as_pointer())


def _loaded(builder: Any, pointer: Any, at: Any, kind: Any) -> Any:
    """Return the vector at that place of an array, which need not be aligned."""
    return builder.load(_vector(builder, pointer, at, kind), align=1)


def _everywhere(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of one value."""
    one = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
    order = ir.VectorType(ir.IntType(32), kind.count)([0] * kind.count)
    return builder.shuffle_vector(one, one, order)


add_to_one, add_to_four = _adding(1, 128), _adding(4, 32)
