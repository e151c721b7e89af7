"""Loops in vector instructions that numba does not find by itself.

Arrays are contiguous; their layouts are those of bounds.py.
"""

from functools import partial, reduce
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


def _adding(queries: int, rows: int) -> Any:
    """Return a function that adds the products of ``near`` codes and weights to scores.

    Its arguments are codes (n, p / 4, LANES) uint16; blocks (b + 1,) int64, where blocks of codes
    begin; pairs (g, m, t, 2) uint32, the weights of ``t`` queries: two bytes, twice; factors
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
            features = context.codegen().magic_tuple()[2].split(",")
            _Kernel(builder, pointers, features, queries).write(count, rows)
            return context.get_dummy_value()

        numbers = _tuple(types.intp, 4)
        return types.void(codes, blocks, pairs, factors, scores, numbers), generate

    return add


class _Kernel:
    """Writes the instructions of what :func:`_adding` returns."""

    def __init__(
        self, builder: Any, pointers: list[Any], features: list[str], queries: int
    ) -> None:
        self._codes, self._blocks, self._pairs, self._factors, self._scores = pointers
        self._builder = builder
        self._queries = queries
        self._multiply, self._width, self._more = self._multiplied, 16, 1
        if "+avx512bw" in features:
            self._multiply = partial(self._by_instruction, "avx512.pmaddubs.w.512")
            self._width, self._more = 32, 2
        elif "+avx2" in features:
            self._multiply = partial(self._by_instruction, "avx2.pmadd.ub.sw")
        self._bytes = ir.VectorType(ir.IntType(8), 2 * self._width)
        self._words = ir.VectorType(ir.IntType(16), self._width)

    def _by_instruction(self, name: str, codes: Any, weights: Any) -> Any:
        """Return the sums of two products each of unsigned and signed bytes, in 16 bits."""
        kind = ir.FunctionType(self._words, [self._bytes, self._bytes])
        function = _declared(self._builder.module, kind, f"llvm.x86.{name}")
        return self._builder.call(function, [codes, weights])

    def _multiplied(self, codes: Any, weights: Any) -> Any:
        """Do the same on any processor."""
        builder, double = self._builder, ir.VectorType(ir.IntType(16), 2 * self._width)
        products = builder.mul(builder.zext(codes, double), builder.sext(weights, double))
        order = ir.VectorType(ir.IntType(32), self._width)
        first, second = (
            builder.shuffle_vector(products, products, order(list(range(start, double.count, 2))))
            for start in range(2)
        )
        return builder.add(first, second)

    def write(self, blocks: Any, rows: int) -> None:
        """Write all of it, for so many blocks."""
        builder, nothing = self._builder, self._words([0] * self._width)
        rows = min(LANES, rows * self._more)
        sums = [
            [_allocated(builder, nothing) for _ in range(rows // self._width)]
            for _ in range(self._queries)
        ]
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
                    self._add_products(number, lane, sums)
                self._add_to_scores(block.index, lane, sums)

    def _add_products(self, number: Any, lane: Any, sums: list[list[Any]]) -> None:
        builder, words = self._builder, self._words
        mask, four = words([0x0F0F] * self._width), words([4] * self._width)
        row = builder.add(builder.mul(number, _INT(LANES)), lane)
        halves: tuple[list[Any], list[Any]] = [], []
        for vector in range(len(sums[0])):
            at = builder.add(row, _INT(self._width * vector))
            fours = _loaded(builder, self._codes, at, words)
            halves[0].append(builder.and_(fours, mask))
            halves[1].append(builder.and_(builder.lshr(fours, four), mask))
        first = builder.mul(number, _INT(2 * self._queries))
        pairs = ir.VectorType(ir.IntType(32), self._width // 2)
        for place in range(2 * self._queries):
            at = builder.gep(self._pairs, [builder.add(first, _INT(place))])
            pair = builder.bitcast(_everywhere(builder, builder.load(at), pairs), self._bytes)
            for total, codes in zip(sums[place // 2], halves[place % 2], strict=True):
                products = self._multiply(builder.bitcast(codes, self._bytes), pair)
                builder.store(builder.add(builder.load(total), products), total)

    def _add_to_scores(self, block: Any, lane: Any, sums: list[list[Any]]) -> None:
        builder, width = self._builder, self._width
        floats, integers = (ir.VectorType(kind, width) for kind in (_FLOAT, ir.IntType(32)))
        for query, vectors in enumerate(sums):
            place = builder.add(builder.mul(block, _INT(self._queries)), _INT(query))
            factor = builder.load(builder.gep(self._factors, [place]))
            factor = _everywhere(builder, factor, floats)
            for vector, total in enumerate(vectors):
                at = builder.add(lane, _INT(LANES * query + width * vector))
                whole = builder.sext(builder.load(total), integers)
                product = builder.fmul(builder.sitofp(whole, floats), factor, flags=_SUM)
                before = _loaded(builder, self._scores, at, floats)
                score = _vector(builder, self._scores, at, floats)
                builder.store(builder.fadd(before, product, flags=_SUM), score, align=1)


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
