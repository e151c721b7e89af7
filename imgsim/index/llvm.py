"""Shorthand for instructions that numba does not find by itself.

Arrays are contiguous; what points to one points to its first value.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic
allocated: Any = cgutils.alloca_once_value
declared: Any = cgutils.get_or_insert_function
unpacked: Any = cgutils.unpack_tuple
loop: Any = cgutils.for_range
loop_by: Any = cgutils.for_range_slice
tuple_of: Any = types.UniTuple

INT, FLOAT, WORD = ir.IntType(64), ir.FloatType(), ir.IntType(32)
SUM = ("contract",)


def pointers_of(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return where the values of the first arguments begin, which are arrays."""
    kinds = zip(signature.args, arguments, strict=False)
    return [context.make_array(kind)(context, builder, value).data for kind, value in kinds]


def shape_of(context: Any, builder: Any, signature: Any, arguments: Any, number: int) -> Any:
    """Return the shape of the array that is argument ``number``."""
    return context.make_array(signature.args[number])(context, builder, arguments[number]).shape


def _vector(builder: Any, pointer: Any, at: Any, kind: Any) -> Any:
    """Return a pointer to the vector at that place of an array."""
    return builder.bitcast(builder.gep(pointer, [at]), kind.as_pointer())


def loaded(builder: Any, pointer: Any, at: Any, kind: Any) -> Any:
    """Return the vector at that place of an array, which need not be aligned."""
    return builder.load(_vector(builder, pointer, at, kind), align=1)


def everywhere(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of one value."""
    one = builder.insert_element(kind(ir.Undefined), value, WORD(0))
    order = ir.VectorType(WORD, kind.count)([0] * kind.count)
    return builder.shuffle_vector(one, one, order)


def stored(builder: Any, value: Any, pointer: Any, at: Any) -> None:
    """Store a vector at that place of an array, which need not be aligned."""
    builder.store(value, _vector(builder, pointer, at, value.type), align=1)
