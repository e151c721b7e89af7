"""The head of an encoder as nodes of its ONNX model; ``imgsim.encoder.head_fit`` fits it."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imgsim.encoder.encoder import MODEL_NAME, Encoder
from imgsim.encoder.head_fit import LEAST_POWER, Affine, Head, pooling
from imgsim.encoder.preprocessing import Preprocessing, inscribe, write_preprocessing
from imgsim.errors import EncoderError
from imgsim.files import writing

_OUTPUT = "embedding"
_LEAST_SQUARE = 1e-12  # of the length of a row; what is less stays short
_OLDEST = 8  # the opset from which on Max broadcasts


def attach(encoder: Encoder, head: Head, directory: Path) -> None:
    """Write the files of an encoder with a head into ``directory``.

    It may be the folder of ``encoder`` itself. Raises :class:`EncoderError` for a model of before
    2018.
    """
    model = onnx.load(encoder.path)
    fed = encoder.preprocessing
    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if 0 < opset < _OLDEST:
        raise EncoderError(f"the model has opset {opset}; convert it to {_OLDEST} or later")
    if not opset:
        model.opset_import.append(helper.make_opsetid("", 17))
    nodes = _Nodes(model.graph, fed.output or model.graph.output[0].name)
    x = nodes.add("Cast", nodes.output, to=TensorProto.FLOAT)
    x = nodes.add("Reshape", x, nodes.constant(np.array([-1, fed.dim])))
    dim = fed.dim
    if head.unit:
        x = nodes.unit(x, dim)
    if head.colours is not None:
        shares = nodes.times(_shares(nodes, fed, head.colours), head.share**0.5)
        x = nodes.add("Concat", nodes.times(x, (1 - head.share) ** 0.5), shares, axis=1)
        dim += len(head.colours.bias)
    if head.directions is not None:
        x, dim = nodes.affine(x, head.directions), len(head.directions.bias)
        x = nodes.unit(x, dim) if head.unit else x
    nodes.end(x, dim)
    after = replace(fed, dim=dim, output=_OUTPUT, normalize=False)
    target = directory / MODEL_NAME
    with writing(target):
        onnx.save(model, target)
    inscribe(target, after)
    write_preprocessing(directory, after)


class _Nodes:
    """Appends nodes to a graph; what they are called is taken by no other.

    ``output`` is what the graph gives so far.
    """

    def __init__(self, graph: onnx.GraphProto, output: str) -> None:
        taken = {name for node in graph.node for name in node.output}
        taken |= {each.name for each in (*graph.initializer, *graph.input)}
        prefixes = (f"head{number}/" for number in count(1))
        self._prefix = next(
            prefix for prefix in prefixes if not any(name.startswith(prefix) for name in taken)
        )
        self._numbers = count()
        self._graph = graph
        self.image, self.output = graph.input[0].name, output
        if _OUTPUT in taken:  # by another head, say
            other = self._name()
            _rename(graph, _OUTPUT, other)
            self.output = other if output == _OUTPUT else output

    def _name(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    def constant(self, values: NDArray[np.generic]) -> str:
        """Return the name of a tensor of its own."""
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - onnx takes any
        """Append a node; return the name of its output."""
        name = self._name()
        self._graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def times(self, x: str, factor: float) -> str:
        """Return a tensor times a number."""
        return self.add("Mul", x, self.constant(np.array([factor], np.float32)))

    def affine(self, x: str, layer: Affine) -> str:
        """Return what a layer makes of the last axis."""
        product = self.add("MatMul", x, self.constant(layer.weights))
        return self.add("Add", product, self.constant(layer.bias))

    def unit(self, x: str, dim: int) -> str:
        """Return rows (n, dim) at unit length."""
        squares = self.add("Mul", x, x)
        sums = self.add("MatMul", squares, self.constant(np.ones((dim, 1), np.float32)))
        sums = self.add("Max", sums, self.constant(np.array([_LEAST_SQUARE], np.float32)))
        return self.add("Div", x, self.add("Sqrt", sums))

    def end(self, x: str, dim: int) -> None:
        """Make a tensor (n, dim) the only output."""
        self._graph.node.append(helper.make_node("Identity", [x], [_OUTPUT], name=self._name()))
        del self._graph.output[:]
        rows = helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["n", dim])
        self._graph.output.append(rows)


def _rename(graph: onnx.GraphProto, before: str, after: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [after if name == before else name for name in names]
    for value in graph.output:
        value.name = after if value.name == before else value.name


def _shares(nodes: _Nodes, fed: Preprocessing, colours: Affine) -> str:
    """Return the roots of the shares of colours (n, k) of the images; their length is 1.

    Their Euclidean distance is the Hellinger distance times the root of 2. Where a pixel is far
    from a colour, how much it is of it ends at :data:`LEAST_POWER`.
    """
    many = len(colours.bias)
    x = nodes.add("Cast", nodes.image, to=TensorProto.FLOAT)
    if fed.layout == "nhwc":
        x = nodes.add("Transpose", x, perm=(0, 3, 1, 2))
    factor = pooling(fed.height), pooling(fed.width)
    x = nodes.add("AveragePool", x, kernel_shape=factor, strides=factor)
    x = nodes.add("Transpose", x, perm=(0, 2, 3, 1))
    x = nodes.affine(x, _of_input(colours, fed))
    pixels = (fed.height // factor[0]) * (fed.width // factor[1])
    x = nodes.add("Reshape", x, nodes.constant(np.array([-1, pixels, many, 1])))
    least = nodes.constant(np.array([LEAST_POWER], np.float32))
    x = nodes.add("Sub", x, nodes.add("Add", nodes.add("GlobalMaxPool", x), least))
    x = nodes.add("Relu", x)  # what Max with a number gives, which is slow
    x = nodes.add("Reshape", x, nodes.constant(np.array([-1, pixels, many])))
    mean = nodes.constant(np.full((1, pixels), 1 / pixels, np.float32))
    x = nodes.add("MatMul", mean, nodes.add("Softmax", x, axis=2))
    return nodes.add("Sqrt", nodes.add("Reshape", x, nodes.constant(np.array([-1, many]))))


def _of_input(colours: Affine, fed: Preprocessing) -> Affine:
    """Return the layer that takes what the model is fed instead of RGB in 0..255."""
    weights = colours.weights[::-1] if fed.channels == "bgr" else colours.weights
    gain, offset = fed.affine()
    scaled = (weights.astype(np.float64) / gain[:, np.newaxis]).astype(np.float32)
    bias = colours.bias - (offset / gain) @ weights.astype(np.float64)
    return Affine(scaled, bias.astype(np.float32))
