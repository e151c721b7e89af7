"""Small ONNX models for the tests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def write_model(
    path: Path,
    shape=("n", 3, 8, 8),
    kind="float",
    nodes=None,
    output=("n", "values"),
    weights=None,
    outputs=("latent",),
) -> str:
    """Write a model that gives the image's values, or what ``nodes`` make of the input ``x``."""
    image = helper.make_tensor_value_info("image", TYPES[kind], shape)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
            *(nodes or [helper.make_node("Flatten", ["x"], ["latent"])]),
        ],
        "test",
        [image],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in (weights or {}).items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return str(path)


def write_projection(path: Path, side=8, dim=5, seed=0) -> str:
    """Write a model (n, 3, side, side) float to (n, dim): a random matrix."""
    matrix = np.random.default_rng(seed).normal(size=(3 * side * side, dim)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["latent"]),
    ]
    return write_model(path, ("n", 3, side, side), nodes=nodes, weights={"matrix": matrix})
