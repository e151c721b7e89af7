"""The head in ONNX against the same in NumPy, whatever the encoder takes and gives."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from imgsim import Collection, EncoderError, EncoderSource
from imgsim.encoder.encoder import Encoder
from imgsim.encoder.head import attach
from imgsim.encoder.head_fit import Affine, Head, fitted_head, pooled, shares_of, unit
from imgsim.options import HeadSettings
from tests.models import write_model

SIDE = 70  # so that two pixels of a side become one


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (40, 7, 7, 3), np.uint8)
    return coarse.repeat(10, axis=1).repeat(10, axis=2)


@pytest.fixture
def collection(tmp_path):
    with Collection.open(tmp_path / "c", create=True) as opened:
        yield opened


def added(collection, path, **options):
    return Encoder(Path(collection.encoders.add(EncoderSource(path, **options)).encoder.directory))


def as_said(rows, images, head):
    """Return what the head makes of rows, in float64."""
    x = unit(rows).astype(np.float64) if head.unit else rows.astype(np.float64)
    if head.colours is not None:
        shares = np.stack([shares_of(pooled(image), head.colours) for image in images])
        x = np.concatenate([(1 - head.share) ** 0.5 * x, head.share**0.5 * shares], axis=1)
    if head.directions is not None:
        x = x @ head.directions.weights.astype(np.float64) + head.directions.bias
        x = x / np.linalg.norm(x, axis=1, keepdims=True) if head.unit else x
    return x


POOL = [
    helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[10, 10], strides=[10, 10]),
    helper.make_node("Flatten", ["y"], ["latent"]),
]
LAST = [helper.make_node("Transpose", ["x"], ["z"], perm=[0, 3, 1, 2])]
LAST += [helper.make_node("AveragePool", ["z"], ["y"], kernel_shape=[10, 10], strides=[10, 10])]
LAST += [helper.make_node("Flatten", ["y"], ["latent"])]


@pytest.mark.parametrize(
    ("shape", "kind", "options"),
    [
        (("n", 3, SIDE, SIDE), "float", {}),
        (("n", 3, SIDE, SIDE), "float", {"scale": "0..255"}),
        ((1, 3, SIDE, SIDE), "float", {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}),
        ((4, 3, SIDE, SIDE), "float", {"channels": "bgr", "mean": (0.4, 0.5, 0.6)}),
        (("n", 3, "h", "w"), "float", {"image_size": SIDE, "normalize": True}),
        (("n", SIDE, SIDE, 3), "uint8", {}),
        (
            ("n", SIDE, SIDE, 3),
            "float",
            {"mean": (9, 8, 7), "std": (50, 60, 70), "channels": "bgr"},
        ),
    ],
)
def test_it_gives_what_is_fitted(collection, tmp_path, images, shape, kind, options):
    nodes = POOL if shape[1] == 3 else LAST
    path = write_model(tmp_path / "m.onnx", shape, kind, nodes=nodes)
    encoder = added(collection, path, **options)
    rows = encoder.encode(images)
    head = fitted_head(rows, list(map(pooled, images)), HeadSettings(8, "some"))
    assert head.colours is not None
    assert len(head.directions.bias) == 8
    attach(encoder, head, tmp_path)
    found = Encoder(tmp_path)
    assert found.preprocessing.dim == 8
    assert not found.preprocessing.normalize
    assert np.abs(found.encode(images) - as_said(rows, images, head)).max() < 2e-3


def test_of_two_heads_the_second_follows_the_first(collection, tmp_path, images):
    encoder = added(collection, write_model(tmp_path / "m.onnx", ("n", 3, SIDE, SIDE), nodes=POOL))
    for dims in (12, 6):
        rows = encoder.encode(images)
        head = fitted_head(rows, list(map(pooled, images)), HeadSettings(dims, "little"))
        attach(encoder, head, tmp_path)
        encoder = Encoder(tmp_path)
    onnx.checker.check_model(onnx.load(encoder.path), full_check=True)
    assert np.abs(encoder.encode(images) - as_said(rows, images, head)).max() < 2e-3


def test_each_image_has_the_same_bits_alone_and_among_others(collection, tmp_path, images):
    encoder = added(collection, write_model(tmp_path / "m.onnx", ("n", 3, SIDE, SIDE), nodes=POOL))
    head = fitted_head(encoder.encode(images), list(map(pooled, images)), HeadSettings(8, "much"))
    attach(encoder, head, tmp_path)
    found = Encoder(tmp_path)
    alone = np.concatenate([found.encode(image[np.newaxis]) for image in images])
    assert np.array_equal(found.encode(images), alone)


@pytest.mark.parametrize("colours", ["none", "some"])
def test_few_or_equal_images_get_no_directions(images, colours):
    rows = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    small = list(map(pooled, images))
    assert fitted_head(rows, small, HeadSettings(40, colours)).directions is None
    equal = np.broadcast_to(rows[0], rows.shape)
    assert fitted_head(equal, [small[0]] * 40, HeadSettings(8, colours)).directions is None


def test_images_of_one_colour_have_no_shares():
    grey = [np.full((32, 32, 3), 90, np.uint8)] * 5
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    assert fitted_head(rows, grey, HeadSettings(0, "much")).colours is None


def test_too_wide_an_embedding_is_refused():
    with pytest.raises(EncoderError, match="8,193 values"):
        fitted_head(np.zeros((3, 8_193), np.float32), [], HeadSettings())


def test_an_old_model_is_refused(collection, tmp_path):
    path = write_model(tmp_path / "m.onnx", ("n", 3, 8, 8))
    model = onnx.load(path)
    model.opset_import[0].version = 7
    onnx.save(model, path)
    encoder = added(collection, path)
    with pytest.raises(EncoderError, match="opset 7"):
        attach(encoder, Head(True, 0.0, None, None), tmp_path)


def test_a_row_of_zeros_stays_finite(collection, tmp_path):
    encoder = added(collection, write_model(tmp_path / "m.onnx", ("n", 3, 8, 8)))
    attach(
        encoder,
        Head(True, 0.0, None, Affine(np.eye(192, dtype=np.float32), np.zeros(192, np.float32))),
        tmp_path,
    )
    black = Encoder(tmp_path).encode(np.zeros((1, 8, 8, 3), np.uint8))
    assert not black.any()
