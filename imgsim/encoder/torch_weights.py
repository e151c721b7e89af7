"""The weights in a file that PyTorch wrote before version 1.6, read without PyTorch.

Such a file is five pickles, one after the other: a magic number, a protocol version, facts about
the machine, the tensors by name, the keys of their storages; then for each storage, in that order,
its number of values (int64) and these, little-endian. A pickle can call anything. Here it can call
two things: ``collections.OrderedDict``, and the rebuilding of a tensor from its storage, which is
described and not done until all storages are there.
"""

import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsim.errors import EncoderError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8", "HalfStorage": "<f2", "DoubleStorage": "<f8"}
_LARGEST = 1 << 30  # bytes of a storage or tensor
# What damaged or hostile pickles make of Python's reader.
_FAILURES = (
    pickle.UnpicklingError,
    *(EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(MemoryError, OverflowError, ImportError, RecursionError),
)


def read_weights(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of the file by name; raise :class:`EncoderError` if it is no such file."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
    except _FAILURES as error:
        raise EncoderError(
            f"{path}: is no file of weights as PyTorch wrote them: {error}"
        ) from error


@dataclass(frozen=True)
class _Storage:
    """Where values are kept: they are ``size`` of a type."""

    type: str
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in values from its beginning."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuilt(storage: _Storage, offset: int, shape: Any, strides: Any, *_: object) -> _Tensor:  # noqa: ANN401 - from a file
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _Unpickler(pickle.Unpickler):
    """Reads a pickle in which nothing but tensors can be made."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as the method it overrides
        """Return one of the things that may be called, or raise."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"it calls {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - as the method it overrides
        """Return the storage that is meant."""
        kind, type_, key, _, size, *_ = pid
        if kind != "storage" or type_ not in _TYPES.values():
            raise pickle.UnpicklingError(f"it refers to {kind}")
        return _Storage(type_, str(key), int(size))


def _read(file: BinaryIO) -> dict[str, NDArray[np.generic]]:
    if (_Unpickler(file).load(), _Unpickler(file).load()) != (_MAGIC, _PROTOCOL):
        raise ValueError("it begins otherwise")
    _Unpickler(file).load()  # facts about the machine: all of them had 64 bits and little-endian
    tensors = _Unpickler(file).load()
    keys = _Unpickler(file).load()
    if not isinstance(tensors, dict) or not all(isinstance(x, _Tensor) for x in tensors.values()):
        raise ValueError("it is no table of tensors")
    storages = {each.storage.key: each.storage for each in tensors.values()}
    values = {key: _values(file, storages[key]) for key in keys}
    return {str(name): _viewed(each, values[each.storage.key]) for name, each in tensors.items()}


def _values(file: BinaryIO, storage: _Storage) -> NDArray[np.generic]:
    type_ = np.dtype(storage.type)
    size = int(np.frombuffer(file.read(8), "<i8")[0])
    if size != storage.size or not 0 <= size * type_.itemsize <= _LARGEST:
        raise ValueError("a storage has another size than is said")
    content = file.read(size * type_.itemsize)
    if len(content) < size * type_.itemsize:
        raise EOFError("it ends too soon")
    return np.frombuffer(content, type_)


def _viewed(tensor: _Tensor, values: NDArray[np.generic]) -> NDArray[np.generic]:
    steps = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if math.prod(tensor.shape) * values.itemsize > _LARGEST:
        raise ValueError("a tensor is larger than any of a network")
    least = min((*tensor.shape, *tensor.strides, tensor.offset), default=0)
    if least < 0 or not steps < len(values):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides)
    return np.ascontiguousarray(view).reshape(tensor.shape)
