"""EfficientNet-Lite from its weights to an ONNX model.

Source: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019,
without squeeze-and-excitation and with ReLU6: blocks of mobile inverted bottlenecks. Batch
normalisation is folded into the convolutions before it.
"""

import math
from collections.abc import Mapping
from itertools import count

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imgsim.errors import EncoderError

_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # blocks, stride of the first
_EPSILON = 1e-3
_OPSET = 17

Weights = Mapping[str, NDArray[np.generic]]


def efficientnet_lite(weights: Weights, side: int, depth: float) -> onnx.ModelProto:
    """Return the model from images (n, 3, side, side) float32 to features (n, 1280) float32.

    ``depth`` is by what the number of blocks is multiplied: 1.0 for Lite0, 1.1 for Lite1, 1.2 for
    Lite2. Raises :class:`EncoderError` if the weights are those of another network.
    """
    try:
        return _Network(weights).model(side, depth)
    except (KeyError, ValueError) as error:
        raise EncoderError(f"the weights are not those of an EfficientNet-Lite: {error}") from error


def _strides(depth: float) -> list[int]:
    """Return the stride of each block; the first and the last stage are not multiplied."""
    found = []
    for number, (blocks, stride) in enumerate(_STAGES):
        ends = number in {0, len(_STAGES) - 1}
        repeats = blocks if ends else math.ceil(depth * blocks)
        found += [stride, *[1] * (repeats - 1)]
    return found


class _Network:
    """The graph, as far as it is built."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._numbers = count()
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def model(self, side: int, depth: float) -> onnx.ModelProto:
        """Return the model; see :func:`efficientnet_lite`."""
        x = self._convolution("image", "_conv_stem", "_bn0", stride=2)
        for number, stride in enumerate(_strides(depth)):
            x = self._block(x, f"_blocks.{number}", stride)
        x = self._convolution(x, "_conv_head", "_bn1")
        x = self._add("GlobalAveragePool", x)
        self._nodes.append(helper.make_node("Flatten", [x], ["features"]))
        width = self._weights["_conv_head.weight"].shape[0]
        graph = helper.make_graph(
            self._nodes,
            "efficientnet-lite",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
            self._tensors,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        made.ir_version = 8  # ONNX Runtime of today reads newer ones too, older ones do not
        return made

    def _block(self, x: str, name: str, stride: int) -> str:
        """Return what a mobile inverted bottleneck makes of ``x``."""
        y, first = x, self._weights.get(f"{name}._expand_conv.weight")
        if first is not None:
            y = self._convolution(y, f"{name}._expand_conv", f"{name}._bn0")
        y = self._convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride)
        y = self._convolution(y, f"{name}._project_conv", f"{name}._bn2", bounded=False)
        last = self._weights[f"{name}._project_conv.weight"]
        if first is not None and stride == 1 and first.shape[1] == last.shape[0]:
            return self._add("Add", y, x)
        return y

    def _convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, bounded: bool = True
    ) -> str:
        """Return a convolution with the normalisation that follows, and ReLU6 if ``bounded``."""
        kernel = self._weights[f"{name}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self._weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(variance + _EPSILON)
        y = self._add(
            "Conv",
            x,
            self._tensor(kernel * gain[:, np.newaxis, np.newaxis, np.newaxis]),
            self._tensor(beta - mean * gain),
            kernel_shape=kernel.shape[2:],
            strides=(stride, stride),
            group=len(kernel) if name.endswith("_depthwise_conv") else 1,
            auto_pad="SAME_UPPER",  # as TensorFlow pads, where the network was trained
        )
        return self._add("Clip", y, self._bound(0.0), self._bound(6.0)) if bounded else y

    def _bound(self, value: float) -> str:
        return self._tensor(np.array(value))

    def _tensor(self, values: NDArray[np.float64]) -> str:
        name = f"w{next(self._numbers)}"
        self._tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def _add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"x{next(self._numbers)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))  # type: ignore[arg-type] # onnx takes any
        return name
