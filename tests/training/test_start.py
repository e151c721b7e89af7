"""Trainings that start from a network: last layers and a decoder for it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from imgsim import (
    DECODER,
    AdaptSettings,
    Collection,
    EncoderError,
    EncoderMissing,
    EncoderSource,
    TrainingSettings,
)
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode
from imgsim.images.frame import Frame
from tests.models import write_projection

COUNT = 36  # crops
SMALL = replace(DECODER, start="bare", image_size=32, epochs=3, batch_size=8, principal=8)
FILES = ["encoder.json", "encoder.onnx"]
BESIDES = ["history.csv", "history.png", "model.keras", "reconstructions.png"]


def with_network(path, seed=0):
    with Collection.open(path, create=True) as collection:
        model = write_projection(path / "m.onnx", dim=40, seed=seed)
        collection.encoders.add(EncoderSource(model, "bare", fit="crop"))
        os.unlink(model)
    return path


@pytest.fixture
def collection(tmp_path):
    with Collection.open(with_network(tmp_path / "c")) as opened:
        yield opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory, crops):
    """A collection that was trained from its network, the report, and the progress told."""
    told = []
    path = with_network(tmp_path_factory.mktemp("started") / "c")
    with Collection.open(path) as collection:
        report = collection.train(crops, SMALL, told.append, name="mine")
        yield collection, report, told


def interrupt(now):
    if now.stage == "train" and now.epoch == 2 and now.ended:
        raise KeyboardInterrupt


def test_what_it_makes(trained):
    collection, report, told = trained
    assert (report.start, report.images, report.unseen, report.compared) == ("bare", COUNT, 0, 0)
    assert (report.encoder.name, report.encoder.dim, report.colours) == ("mine", 8, "little")
    assert sorted(os.listdir(report.encoder.directory)) == [*FILES, *BESIDES]
    assert report.history[-1].loss < report.history[0].loss
    assert report.recognition.images == COUNT
    stages = list(dict.fromkeys(now.stage for now in told))
    assert stages == ["prepare", "encode", "head", "train", "export", "check"]
    counted = [(now.done, now.total) for now in told if now.stage == "encode"]
    assert counted == [(number, COUNT) for number in range(1, COUNT + 1)]
    assert not (collection.path / "training").exists()


def test_it_is_used_like_any_other(trained, crops):
    collection, _, _ = trained
    assert collection.ingest(crops).added == COUNT
    (result,) = collection.query([crops[5]], 1)
    assert (result.matches[0].path, result.matches[0].distance) == (crops[5], 0.0)
    assert collection.check() == []


def test_the_decoder_reconstructs_from_what_the_network_gives(trained, crops):
    collection, report, _ = trained
    network = Encoder(Path(collection.encoders.get("bare").directory))
    decoder = keras.models.load_model(os.path.join(report.encoder.directory, "model.keras"))
    features = network.encode(np.stack([decode(path, Frame(8, 8, "crop")) for path in crops]))
    made = decoder.predict(features, verbose=0)["reconstruction"]
    images = np.stack([decode(path, Frame(32, 32, "crop")) for path in crops]) / 255
    best = report.history[report.best_epoch - 1]
    assert np.mean((made - images) ** 2) == pytest.approx(best.val_loss, rel=0.5)


def test_the_decoder_learns_what_the_network_gets(collection, tmp_path, crops):
    """The middle, as this network takes it: of what is beside it nothing is reconstructed."""
    folder = tmp_path / "wide"
    folder.mkdir()
    for path in crops:
        with Image.open(path) as image:
            wide = Image.new("RGB", (3 * image.width, image.height), (0, 255, 0))
            wide.paste(image, (image.width, 0))
        wide.save(folder / f"{Path(path).stem}.png")
    report = collection.train(folder, replace(SMALL, epochs=1))
    with Image.open(Path(report.encoder.directory) / "reconstructions.png") as shown:
        assert not (np.asarray(shown.convert("RGB")) == (0, 255, 0)).all(axis=2).any()


def test_it_is_the_encoder_that_adapting_makes(trained, crops, tmp_path):
    """The decoder comes on top: to a folder in which the same encoder is already."""
    with Collection.open(with_network(tmp_path / "c")) as collection:
        adapted = collection.encoders.adapt("bare", crops, AdaptSettings(dims=8)).encoder
        assert adapted.fingerprint == trained[1].encoder.fingerprint
        assert sorted(os.listdir(adapted.directory)) == FILES
        report = collection.train(crops, SMALL)
        assert report.encoder == adapted
        assert sorted(os.listdir(adapted.directory)) == [*FILES, *BESIDES]
        assert collection.check() == []


def test_ctrl_c_keeps_what_is_best_and_resume_goes_on(collection, crops):
    first = collection.train(crops, SMALL, interrupt, name="mine")
    assert (first.interrupted, len(first.history)) == (True, 2)
    model = Path(first.encoder.directory) / "model.keras"
    before = model.read_bytes()
    again = collection.train(crops, resume=True)
    assert again.start == "bare"
    assert again.history[:2] == first.history
    assert len(again.history) == 3
    assert (again.encoder.fingerprint, again.encoder.name) == (first.encoder.fingerprint, "mine")
    assert model.read_bytes() != before
    assert not again.interrupted


def test_resume_wants_the_same_images_and_network(collection, crops, tmp_path):
    collection.train(crops, SMALL, interrupt)
    with pytest.raises(EncoderError, match="the images, or the encoder bare, are not those"):
        collection.train(crops[1:], resume=True)
    with Collection.open(with_network(tmp_path / "other", seed=1)) as other:
        shutil.copytree(collection.path / "training", other.path / "training")
        with pytest.raises(EncoderError, match="the images, or the encoder bare, are not those"):
            other.train(crops, resume=True)
        other.encoders.add(EncoderSource(write_projection(tmp_path / "m.onnx"), "new"))
        other.encoders.use("new")
        other.encoders.remove("bare")
        with pytest.raises(EncoderMissing, match="no encoder bare"):
            other.train(crops, resume=True)


def test_what_cannot_be_decoded_is_left_out(collection, crops, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(crops[0]).read_bytes()[:900])
    report = collection.train([*crops[:5], cut], replace(SMALL, epochs=1))
    assert (report.images, [each.path for each in report.refused]) == (5, [str(cut)])


def test_what_cannot_be_is_told_before_anything_is_encoded(collection, crops, tmp_path):
    told = []
    with pytest.raises(EncoderError, match="at least 2 images"):
        collection.train(crops[:1], SMALL, told.append)
    with pytest.raises(EncoderMissing, match="no encoder none; it has: bare"):
        collection.train(crops, replace(SMALL, start="none"), told.append)
    assert told == []
    assert [each.name for each in collection.encoders.list()] == ["bare"]


@pytest.mark.parametrize("wrong", [{"contrast": 1.0}, {"latent_channels": 4}, {"unit": False}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="has its own latent"):
        replace(DECODER, start="bare", **{"colours": "none"} | wrong)
    with pytest.raises(ValueError, match="has its own latent"):
        TrainingSettings(start="bare")


def test_the_command(imgsim, tmp_path, crops):
    path, folder = with_network(tmp_path / "c"), os.path.dirname(crops[0])
    options = "--start", "bare", "--image-size", "32", "--epochs", "2", "--name", "mine"
    done = imgsim("-c", path, "train", folder, *options)
    assert done.returncode == 0
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "loading TensorFlow"
    assert [line.split("  ")[0] for line in lines if "epoch 1/2" in line] == ["epoch 1/2"]
    assert any(line.startswith("trained a decoder on 36 images for 2 epochs: ") for line in lines)
    assert "the encoder is bare, with last layers that are fitted to the images" in lines
    assert not any("ONNX against Keras" in line for line in lines)
    for wrong in (["--recipe", "plain"], ["--latent-channels", "4"], ["--resume"]):
        assert imgsim("-c", path, "train", folder, "--start", "bare", *wrong).returncode == 2
    done = imgsim("-c", tmp_path / "new", "train", folder, "--start", "bare")
    assert (done.returncode, done.stderr.count(b"\n")) == (31, 1)
    assert not (tmp_path / "new").exists()
