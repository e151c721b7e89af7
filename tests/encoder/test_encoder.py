import json
import shutil

import numpy as np
import pytest

from imgsim.encoder.encoder import Encoder
from imgsim.encoder.preprocessing import read_preprocessing
from imgsim.errors import EncoderError
from imgsim.files import sha256_file
from imgsim.images.decode import decode
from imgsim.images.frame import Frame
from tests.conftest import encoder_directory


@pytest.fixture(scope="module")
def encoder():
    return Encoder(encoder_directory())


@pytest.fixture(scope="module")
def pixels(crops):
    return np.stack([decode(path, Frame(32, 32)) for path in crops])


@pytest.fixture
def broken(tmp_path):
    return shutil.copytree(encoder_directory(), tmp_path / "encoder")


def test_the_same_image_gives_the_same_bits_whatever_the_batch(encoder, pixels):
    together = encoder.encode(pixels)
    assert together.shape == (len(pixels), encoder.preprocessing.dim)
    assert together.dtype == np.float32
    for start, stop in [(0, 1), (3, 5), (5, 6), (30, 36)]:
        assert encoder.encode(pixels[start:stop]).tobytes() == together[start:stop].tobytes()
    assert encoder.encode(pixels[::-1])[::-1].tobytes() == together.tobytes()
    assert len(np.unique(together, axis=0)) == len(pixels)


def test_another_session_gives_the_same_bits(encoder, pixels):
    again = Encoder(encoder_directory()).encode(pixels)
    assert again.tobytes() == encoder.encode(pixels).tobytes()


def test_no_images_give_no_latents(encoder, pixels):
    assert encoder.encode(pixels[:0]).shape == (0, encoder.preprocessing.dim)


def test_the_fingerprint_is_the_sha256_of_the_file(encoder):
    assert encoder.fingerprint == sha256_file(encoder_directory() / "encoder.onnx")
    assert encoder.fingerprint == encoder_directory().name


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 16, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 1), np.uint8),
    ],
)
def test_unfit_pixels_are_refused(encoder, pixels):
    with pytest.raises(EncoderError, match="uint8"):
        encoder.encode(pixels)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_broken_model_is_refused(broken, content):
    path = broken / "encoder.onnx"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(EncoderError, match=r"encoder\.onnx"):
        Encoder(broken)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_broken_description_is_refused(broken, content):
    (broken / "encoder.json").write_text(content)
    with pytest.raises(EncoderError, match=r"encoder\.json"):
        read_preprocessing(broken)


def test_the_description_says_how_to_feed_the_model(encoder):
    described = json.loads((encoder_directory() / "encoder.json").read_text())
    assert described == {
        "format": 1,
        "height": 32,
        "width": 32,
        "dim": 16,
        "layout": "nhwc",
        "scale": "0..255",
    }
