"""Small ONNX models for the tests."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from imgsim import Collection
from imgsim.catalog.catalog import Catalog
from imgsim.encoder.preprocessing import Preprocessing, write_preprocessing

TYPES = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def write_model(
    path: Path,
    shape=("n", 3, 8, 8),
    kind="float",
    nodes=None,
    output=("n", "values"),
    weights=None,
    outputs=("latent",),
    output_kind=TensorProto.FLOAT,
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
        [helper.make_tensor_value_info(name, output_kind, output) for name in outputs],
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


def make_logarithm(collection: Path) -> Path:
    """Make a collection whose encoder gives minus infinity for a black picture."""
    Collection.open(collection, create=True).close()
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Log", ["mean"], ["latent"]),
    ]
    model = Path(write_model(collection / "model.onnx", nodes=nodes)).read_bytes()
    (collection / "model.onnx").unlink()
    fingerprint = hashlib.sha256(model).hexdigest()
    directory = collection / "encoders" / fingerprint
    directory.mkdir()
    (directory / "encoder.onnx").write_bytes(model)
    write_preprocessing(directory, Preprocessing(8, 8, 3, "nchw"))
    catalog = Catalog(collection / "catalog.db")
    catalog.add_encoder(fingerprint, 3)
    catalog.close()
    return collection
