"""Networks of Keras Applications, with random weights: nothing is downloaded."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.applications.mobilenet_v3 import preprocess_input
from keras.src.legacy.saving import legacy_h5_format

from imgsim import Collection, EncoderError
from imgsim.encoder.applications import APPLICATIONS
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode
from imgsim.images.frame import Frame
from tests.test_privacy import forbid_sending

SMALL = "mobilenet-v3-small"
PUBLISHED = "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files as Keras publishes them, without the layer of classes and with it, and the network."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(0)
    whole = keras.applications.MobileNetV3Small(weights=None)
    model = keras.applications.MobileNetV3Small(
        weights=None, include_top=False, pooling="avg", input_shape=(224, 224, 3)
    )
    model.set_weights(whole.get_weights()[: len(model.get_weights())])
    for name, network in ((PUBLISHED, model), ("whole.h5", whole)):
        with h5py.File(folder / name, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, network)
    return folder, model


@pytest.mark.parametrize("name", [PUBLISHED, "whole.h5"])
def test_it_gives_what_keras_gives(tmp_path, weights, crops, name):
    folder, model = weights
    image = decode(crops[0], Frame(224, 224))
    expected = model(preprocess_input(image[np.newaxis].astype(np.float32))).numpy()[0]
    with Collection.open(tmp_path / "c", create=True) as collection:
        report = collection.encoders.add_pretrained(SMALL, weights=folder / name)
        assert (report.encoder.name, report.encoder.dim, report.warnings) == (SMALL, 576, ())
    given = Encoder(Path(report.encoder.directory)).encode(image[np.newaxis])[0]
    assert np.allclose(given, expected / np.linalg.norm(expected), atol=1e-5)


def test_weights_of_another_network(tmp_path, weights):
    folder, _ = weights
    with Collection.open(tmp_path / "c", create=True) as collection:
        for file, told in (
            (folder / PUBLISHED, "no weights of MobileNetV2"),
            (tmp_path / "none.h5", "no weights of MobileNetV2"),
        ):
            with pytest.raises(EncoderError, match=told):
                collection.encoders.add_pretrained("mobilenet-v2", weights=file)
        assert collection.encoders.list() == []


def test_the_command_connects_to_nothing(imgsim, tmp_path, weights, monkeypatch):
    folder, _ = weights
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = "-c", tmp_path / "c", "encoder", "pretrained"
    done = imgsim(*arguments, SMALL, preexec_fn=forbid_sending)
    assert (done.returncode, done.stderr.count(b"\n")) == (30, 1)
    told = f"/keras-applications/mobilenet_v3/{PUBLISHED} and give that file with --weights, or"
    assert told in done.stderr.decode()
    assert not (tmp_path / "c").exists()

    cache = tmp_path / "keras" / "models"
    cache.mkdir(parents=True)
    (cache / PUBLISHED).symlink_to(folder / PUBLISHED)
    lines = imgsim(*arguments).stdout.decode().splitlines()
    assert {line.split()[0] for line in lines if "installed" in line} & {*APPLICATIONS} == {SMALL}
    done = imgsim(*arguments, SMALL, preexec_fn=forbid_sending)
    assert done.returncode == 0
    assert done.stderr.startswith(f"encoder {SMALL}: 576 values an embedding".encode())
