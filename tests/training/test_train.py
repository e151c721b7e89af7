import csv
import errno
import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from imgsim import PLAIN, Collection, EncoderError, StoreError, TrainingDiverged, TrainingSettings
from imgsim.cli.train import _seconds
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode
from imgsim.images.descriptors import pixels_of
from imgsim.images.frame import Frame
from imgsim.images.scan import find
from imgsim.results import EpochRecord
from imgsim.scores import Recognition
from imgsim.training.callback import LearningRate, ProgressReporter, Run
from imgsim.training.checkpoints import Checkpoints, TrainingJob, TrainingState
from imgsim.training.fit import _callbacks
from imgsim.training.images import TrainingImages
from imgsim.training.network import create, create_autoencoder, encoder_of, latent_channels
from imgsim.training.runtime import tensorflow
from imgsim.training.selfcheck import isolation, recognition
from imgsim.training.train import _difference
from tests.conftest import interruptible

SMALL = replace(PLAIN, image_size=32, latent_channels=4, epochs=3, batch_size=8)
VIEWS = TrainingSettings(image_size=32, epochs=3, batch_size=8, colours="none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, crops):
    """A collection trained on the photographs, the report, and the progress that was told."""
    told = []
    path = tmp_path_factory.mktemp("trained") / "c"
    with Collection.open(path, create=True) as collection:
        report = collection.train([os.path.dirname(crops[0])], SMALL, told.append)
        yield collection, report, told


class TestAutoencoder:
    @pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (64, 48, 1)])
    def test_shapes_follow_the_arguments(self, height, width, channels):
        autoencoder = create_autoencoder(height, width, channels, latent_channels=5)
        images = np.zeros((2, height, width, channels), np.float32)
        assert autoencoder(images)["reconstruction"].shape == images.shape
        latents = encoder_of(autoencoder)(images)
        assert latents.shape == (2, (height // 16) * (width // 16) * 5)

    def test_the_encoder_shares_the_weights_of_the_autoencoder(self):
        autoencoder = create_autoencoder(32, 32, 3, 4)
        images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
        middle = keras.Model(autoencoder.input, autoencoder.get_layer("latent").output)
        assert np.array_equal(encoder_of(autoencoder)(images), middle(images))

    @pytest.mark.parametrize("size", [(0, 32), (33, 32), (8, 8)])
    def test_sizes_that_do_not_divide(self, size):
        with pytest.raises(EncoderError, match="multiple of 16"):
            create_autoencoder(*size, 3, 4)

    def test_latent_channels_make_about_a_thousand_values(self):
        sizes = {s: latent_channels(replace(PLAIN, image_size=s)) for s in (32, 64, 128, 256, 512)}
        assert sizes == {32: 64, 64: 64, 128: 16, 256: 4, 512: 4}


class TestTrain:
    def test_what_is_saved(self, trained):
        _, report, _ = trained
        assert sorted(os.listdir(report.encoder.directory)) == [
            "encoder.json",
            "encoder.onnx",
            "history.csv",
            "history.png",
            "model.keras",
            "reconstructions.png",
        ]
        assert os.path.basename(report.encoder.directory) == report.encoder.fingerprint
        for name in ("history.png", "reconstructions.png"):
            with Image.open(os.path.join(report.encoder.directory, name)) as image:
                image.load()

    def test_the_loss_falls_and_the_history_is_on_disk(self, trained):
        _, report, _ = trained
        assert report.history[-1].loss < report.history[0].loss
        with open(os.path.join(report.encoder.directory, "history.csv"), newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["val_loss"]) for row in rows] == [e.val_loss for e in report.history]
        best = min(report.history, key=lambda epoch: epoch.val_loss)
        assert report.best_epoch == best.epoch

    def test_the_onnx_encoder_is_the_encoder_of_the_saved_model(self, trained, crops):
        _, report, _ = trained
        autoencoder = keras.models.load_model(os.path.join(report.encoder.directory, "model.keras"))
        images = np.stack([decode(path, Frame(32, 32)) for path in crops]).astype(np.float32)
        ours = encoder_of(autoencoder).predict(images, verbose=0)
        session = onnxruntime.InferenceSession(
            os.path.join(report.encoder.directory, "encoder.onnx")
        )
        (theirs,) = session.run(None, {session.get_inputs()[0].name: images})
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(ours).max()
        assert report.onnx_difference < 1e-4 * np.abs(ours).max()
        assert report.compared > 0

    def test_best_weights_are_kept(self, trained, crops):
        """The saved model has the validation loss of the best epoch, not of the last."""
        _, report, _ = trained
        autoencoder = keras.models.load_model(os.path.join(report.encoder.directory, "model.keras"))
        order = np.random.default_rng(SMALL.seed).permutation(36)[:4]
        paths = [sorted(crops)[i] for i in order]
        images = np.stack([decode(path, Frame(32, 32)) for path in paths]).astype(np.float32)
        outputs = autoencoder.predict(images, verbose=0)["reconstruction"]
        loss = float(np.mean((outputs - images / 255) ** 2))
        assert loss == pytest.approx(report.history[report.best_epoch - 1].val_loss, rel=1e-3)

    def test_progress(self, trained):
        _, report, told = trained
        ended = [now for now in told if now.ended]
        assert [now.epoch for now in ended] == [1, 2, 3]
        assert [now.val_loss for now in ended] == [epoch.val_loss for epoch in report.history]
        counted = [now for now in told if now.stage == "train"]
        assert counted[-1].seconds_left == 0
        assert all(now.images_per_second > 0 for now in counted)
        assert all(now.total == 32 for now in counted)
        assert not any(now.done or now.total for now in told if now not in counted)

    def test_the_encoder_works(self, trained, crops):
        collection, report, _ = trained
        assert collection.info().fingerprint == report.encoder.fingerprint
        assert collection.info().dim == report.encoder.dim == 16
        assert collection.ingest(crops).added == 36
        (result,) = collection.query([crops[5]], 1)
        assert (result.matches[0].path, result.matches[0].distance) == (crops[5], 0.0)
        assert collection.check() == []


class TestRefusals:
    def test_bystanders_and_broken_images(self, tmp_path, pictures):
        (pictures / "notes.txt").write_text("no picture")
        whole = sorted(pictures.iterdir())[0].read_bytes()
        for number in range(3):
            (pictures / f"cut{number}.jpg").write_bytes(whole[: len(whole) // 2])
        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train([pictures], replace(PLAIN, image_size=32, epochs=1))
        assert report.images == 36
        assert len(report.refused) == 3
        assert all("truncated" in refusal.reason for refusal in report.refused)

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_images(self, tmp_path, crops, n):
        folder = tmp_path / "few"
        folder.mkdir()
        with (
            Collection.open(tmp_path / "c", create=True) as collection,
            pytest.raises(EncoderError, match="at least 2 images"),
        ):
            collection.train([folder, *crops[:n]])
        assert os.listdir(tmp_path / "c" / "encoders") == []

    def test_two_images_are_enough(self, tmp_path, crops):
        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train(crops[:2], replace(PLAIN, image_size=32, epochs=1))
        assert report.images == 2

    @pytest.mark.parametrize(
        "wrong",
        [
            {"image_size": 40},
            {"image_size": 0},
            {"latent_channels": -1},
            {"epochs": 0},
            {"batch_size": 0},
            {"learning_rate": 0},
            {"learning_rate": float("nan")},
            {"validation_split": 0},
            {"validation_split": 1},
            {"seed": 2**32},
            {"contrast": -1},
            {"contrast": 0, "reconstruct": 0},
            {"principal": -1},
            {"colours": "many"},
            {"colours": "much", "unit": False},
            {"time_budget": 0},
            {"time_budget": float("nan")},
            {"patience": -1},
        ],
    )
    def test_settings_that_make_no_sense(self, wrong):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own message
            TrainingSettings(**wrong)

    def test_unreachable_and_false_images_are_reported(self, tmp_path, pictures):
        (pictures / "link.jpg").symlink_to(tmp_path / "nowhere")
        (pictures / "text.jpg").write_text("no picture")
        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train(pictures, replace(PLAIN, image_size=32, epochs=1))
        assert report.images == 36
        assert sorted(os.path.basename(r.path) for r in report.refused) == ["link.jpg", "text.jpg"]

    @pytest.mark.parametrize("seed", range(2))
    def test_a_broken_image_may_not_be_all_of_the_validation(self, tmp_path, crops, seed):
        cut = tmp_path / "cut.jpg"
        with open(crops[0], "rb") as file:
            cut.write_bytes(file.read(900))
        settings = replace(PLAIN, image_size=32, epochs=1, seed=seed)
        with Collection.open(tmp_path / "c", create=True) as collection:
            assert collection.train([*crops[:3], cut], settings).images == 3

    @pytest.mark.parametrize(
        ("learning_rate", "what"),
        [(1e4, "loss is nan"), (1e30, "loss is nan|not finite")],  # as the processor rounds
    )
    def test_divergence(self, tmp_path, crops, learning_rate, what):
        settings = replace(SMALL, epochs=8, batch_size=4, learning_rate=learning_rate)
        with Collection.open(tmp_path / "c", create=True) as collection:
            with pytest.raises(TrainingDiverged, match=what):
                collection.train(crops, settings)
            assert collection.info().encoder is None
        assert os.listdir(tmp_path / "c" / "encoders") == []


def test_embeddings_that_are_not_finite_are_a_divergence(trained):
    """ReLU can swallow NaN, so that the loss stays finite."""
    _, report, _ = trained
    broken = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(math.nan)])
    sample = np.ones((2, 32, 32, 3), np.uint8)
    with pytest.raises(TrainingDiverged, match="not finite"):
        _difference(broken, Encoder(Path(report.encoder.directory)), sample)


def test_images_of_one_colour_make_no_warnings(tmp_path):
    """Here a warning is an error."""
    for number in range(4):
        Image.new("RGB", (32, 32), (10, 20, 30 + number // 3)).save(tmp_path / f"{number}.png")
    settings = replace(VIEWS, epochs=1, principal=2, colours="some")
    with Collection.open(tmp_path / "c", create=True) as collection:
        assert collection.train(tmp_path, settings).images == 4


def job(folder, seconds_ago=0.0):
    return TrainingJob(folder, Checkpoints(folder), time.monotonic() - seconds_ago)


def test_what_comes_before_and_after_belongs_to_the_time_budget(tmp_path):
    settings = replace(VIEWS, time_budget=100.0, batch_size=1_000)
    run = Run((8_000, 1_000), TrainingState(settings, ""), job(tmp_path, seconds_ago=20.0))
    assert run.seconds_left() == pytest.approx(80, abs=1)
    run.begin_epoch()
    run.count(0)
    assert run.seconds_left() == pytest.approx(80 - 10, abs=1)
    run.count(1)  # in no time; else 7,000 images more would pass through the network
    assert run.seconds_left() == pytest.approx(80 - 10, abs=1)
    resumed = TrainingState(settings, "", seconds=50.0)
    assert Run((8, 1), resumed, job(tmp_path)).seconds_left() == pytest.approx(50, abs=1)
    endless = Run((8, 1), TrainingState(PLAIN, ""), job(tmp_path))
    assert endless.seconds_left() == math.inf
    assert endless.share() == 0


def test_a_first_epoch_that_is_cut_short_is_told(tmp_path, crops):
    told = []

    def interrupt(now):
        told.append(now.stage)
        if now.done == 4 and not now.ended:
            raise KeyboardInterrupt

    with Collection.open(tmp_path / "c", create=True) as collection:
        report = collection.train(crops, replace(VIEWS, batch_size=4), interrupt)
    assert len(report.history) == 1
    assert (report.images, report.unseen) == (6, 30)  # of 36, of which 2 are held out
    assert list(dict.fromkeys(told)) == ["prepare", "train", "export", "head", "check"]


def test_no_time_at_all_is_no_encoder(tmp_path, crops):
    with Collection.open(tmp_path / "c", create=True) as collection:
        with pytest.raises(EncoderError, match="before the training could begin"):
            collection.train(crops, replace(VIEWS, time_budget=1e-3))
        assert collection.encoders.list() == []


class TestRecognition:
    def recognised(self, crops, values):
        """Return the recognition by what gives ``values`` of pixels (height, width, 3)."""
        images = np.stack([decode(path, Frame(32, 32)) for path in crops])
        return recognition(lambda some: np.stack(list(map(values, some))), images, 0)

    def test_raw_pixels_are_as_good_as_raw_pixels(self, crops):
        found = self.recognised(crops, pixels_of)
        assert found.images == 36
        assert 0.1 < found.encoder == found.pixels < 1
        assert found.is_poor

    def test_what_tells_no_images_apart_is_poor(self, crops):
        found = self.recognised(crops, lambda _: np.ones(8, np.float32))
        assert found.encoder == pytest.approx(1 / 36)
        assert found.is_poor

    def test_what_does_not_mind_mirrors_is_better(self, crops):
        def both_ways(pixels):
            return pixels_of(pixels) + pixels_of(pixels[:, ::-1])

        found = self.recognised(crops, both_ways)
        assert found.encoder > found.pixels

    @pytest.mark.parametrize(
        ("encoder", "pixels", "poor"),
        [(0.616, 0.528, True), (0.768, 0.528, False), (0.84, 0.528, False), (1, 1, False)],
    )
    def test_half_of_the_failures_of_pixels(self, encoder, pixels, poor):
        assert Recognition(500, encoder, pixels).is_poor == poor


class TestIsolation:
    """How far the tenth nearest is; twenty in a place are near, and no two of all others are."""

    def test_many_of_each_kind(self):
        random = np.random.default_rng(0)
        kinds = np.repeat(random.normal(size=(30, 64)), 20, axis=0)
        rows = (kinds + 0.1 * random.normal(size=kinds.shape)).astype(np.float32)
        assert 0.05 < isolation(rows) < 0.15
        assert isolation(rows * 1e3) == pytest.approx(isolation(rows), rel=1e-3)

    def test_none_of_a_kind(self):
        rows = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
        found = isolation(rows)
        assert 0.8 < found < 1
        assert Recognition(300, 1.0, 0.5, found).is_sparse

    @pytest.mark.parametrize("rows", [np.eye(10, dtype=np.float32), np.ones((40, 8), np.float32)])
    def test_too_few_and_all_alike(self, rows):
        found = isolation(rows)
        assert found == 0
        assert not Recognition(len(rows), 1.0, 0.5, found).is_sparse


def test_only_a_training_with_augmentations_has_a_schedule(tmp_path):
    for settings, scheduled in ((SMALL, False), (VIEWS, True)):
        run = Run((36, 4), TrainingState(settings, ""), job(tmp_path))
        kinds = {type(callback) for callback in _callbacks(run, ProgressReporter(run, print))}
        assert (LearningRate in kinds) == scheduled


def test_ctrl_c_in_the_first_epoch_keeps_the_weights(tmp_path, crops):
    def interrupt(now):
        if now.done == 16 and not now.ended:
            raise KeyboardInterrupt

    settings = replace(SMALL, epochs=5, batch_size=4)
    with Collection.open(tmp_path / "c", create=True) as collection:
        report = collection.train(crops, settings, interrupt)
        assert report.interrupted
        assert len(report.history) == report.best_epoch == 1
        assert collection.ingest(crops).added == 36


def test_ctrl_c_keeps_the_best_so_far(tmp_path, crops):
    """A real SIGINT to a real process, after its second epoch."""
    collection = tmp_path / "c"
    command = [sys.executable, "-m", "imgsim", "-c", str(collection), "train"]
    options = ["--recipe", "plain", "--image-size", "32", "--epochs", "100000"]
    with subprocess.Popen(
        [*command, os.path.dirname(crops[0]), *options],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,  # noqa: PLW1509 - it only resets a signal
    ) as process:
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert "(interrupted; --resume goes on)" in rest
    with Collection.open(collection) as opened:
        assert opened.info().encoder is not None
        assert opened.check() == []
        assert opened.ingest(crops[:3]).added == 3
    (encoder,) = (collection / "encoders").iterdir()
    history = (encoder / "history.csv").read_text().splitlines()
    assert 3 <= len(history) < 10_000
    assert json.loads((encoder / "encoder.json").read_text())["dim"] == 256


@pytest.fixture(scope="module")
def report(tmp_path_factory, crops):
    """The report of a training on views."""
    with Collection.open(tmp_path_factory.mktemp("views") / "c", create=True) as collection:
        return collection.train(crops, VIEWS)


class TestContrastive:
    @pytest.mark.parametrize("side", [16, 64, 96])
    def test_the_latent_is_of_the_same_size_whatever_that_of_the_image(self, side):
        autoencoder = create(TrainingSettings(image_size=side))
        images = np.zeros((2, side, side, 3), np.float32)
        outputs = autoencoder(images)
        assert outputs["reconstruction"].shape == images.shape
        assert outputs["projection"].shape == (2, 128)
        assert encoder_of(autoencoder)(images).shape == (2, 1_024)

    def test_vectors_have_unit_length(self, report, crops):
        assert report.encoder.dim == 1_024  # of 34 images there are no 256 directions
        encoder = Encoder(Path(report.encoder.directory))
        embeddings = encoder.encode(np.stack([decode(path, Frame(32, 32)) for path in crops]))
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        assert report.onnx_difference < 1e-4

    def test_the_saved_model_is_in_float32(self, report):
        model = keras.models.load_model(os.path.join(report.encoder.directory, "model.keras"))
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}

    def test_the_same_seed_trains_the_same(self, tmp_path, crops):
        """It hardly learns, or what several threads round differently would soon be seen."""
        losses = []
        for number, seed in enumerate([0, 0, 1]):
            settings = replace(VIEWS, epochs=1, learning_rate=1e-9, seed=seed)
            with Collection.open(tmp_path / str(number), create=True) as collection:
                record = collection.train(crops, settings).history[0]
            losses.append([record.loss, record.val_loss])
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)
        assert losses[0] != pytest.approx(losses[2], rel=1e-2)

    def test_colours_that_count_are_in_the_vector(self, tmp_path, crops):
        settings = replace(VIEWS, epochs=1, colours="much")
        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train(crops, settings)
        encoder = Encoder(Path(report.encoder.directory))
        image = decode(crops[0], Frame(32, 32))
        pixels = image.reshape(-1, 3)
        shuffled = np.random.default_rng(0).permutation(pixels).reshape(image.shape)
        one, two = encoder.encode(np.stack([image, shuffled]))[:, 1_024:]
        assert np.allclose(one, two, atol=1e-4)
        assert np.sum(one**2) == pytest.approx(0.7, abs=1e-3)

    def test_colours_do_not_make_it_longer(self, tmp_path, crops):
        settings = replace(VIEWS, epochs=1, principal=5, colours="little")
        with Collection.open(tmp_path / "c", create=True) as collection:
            assert collection.train(crops, settings).encoder.dim == 5

    @pytest.mark.parametrize("mode", ["L", "1"])
    def test_images_that_are_hardly_different(self, tmp_path, crops, mode):
        """Grey ones have few colours, and nothing varies where all are one: that is rounding."""
        for number in range(12):
            with Image.open(crops[number if mode == "L" else 0]) as opened:
                image = opened.convert(mode)
            image.putpixel((number, 0), 255 - image.getpixel((number, 0)))
            image.save(tmp_path / f"{number}.png")
        settings = replace(VIEWS, epochs=1, principal=5, colours="much")
        with Collection.open(tmp_path / "c", create=True) as collection:
            assert collection.train(tmp_path, settings).onnx_difference < 1e-4

    def test_few_images_keep_their_latents_apart(self, tmp_path, crops):
        """Of 2 training images there is one direction, and of unit length are 1 and -1."""
        with Collection.open(tmp_path / "c", create=True) as collection:
            collection.train(crops[:3], replace(VIEWS, epochs=1))
            collection.ingest(crops)
            matches = [item.matches[0].distance for item in collection.neighbours(1)]
        assert min(matches) > 0

    def test_the_time_budget_ends_it(self, tmp_path, crops):
        settings = replace(VIEWS, epochs=1_000_000, time_budget=20.0)
        told = []
        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train(crops, settings, told.append)
        assert 1 <= len(report.history) < 1_000
        assert not report.interrupted
        assert all(now.seconds_left <= 20 for now in told)

    def test_patience_ends_it(self, tmp_path, crops):
        settings = replace(SMALL, epochs=200, patience=2, learning_rate=0.05)
        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train(crops, settings)
        assert len(report.history) < 200
        assert len(report.history) == report.best_epoch + 2


@pytest.mark.parametrize("settings", [VIEWS, TrainingSettings(image_size=32, epochs=1), SMALL])
def test_no_training_image_can_be_decoded(tmp_path, crops, settings):
    """One of two images is broken, and the other is needed for the validation."""
    with open(crops[0], "rb") as file:
        (tmp_path / "cut.jpg").write_bytes(file.read(900))
    with (
        Collection.open(tmp_path / "c", create=True) as collection,
        pytest.raises(EncoderError, match="can be decoded"),
    ):
        collection.train([crops[0], tmp_path / "cut.jpg"], settings)


def test_the_first_refusal_is_named(tmp_path, crops):
    with Collection.open(tmp_path / "c", create=True) as collection:
        with pytest.raises(EncoderError, match=r"found 0; .*nowhere: No such file"):
            collection.train(tmp_path / "nowhere")
        (tmp_path / "a.jpg").write_bytes(b"x")
        with pytest.raises(EncoderError, match=r"found 1; .*a\.jpg: not an image"):
            collection.train([crops[0], tmp_path / "a.jpg"])


@pytest.mark.parametrize("settings", [TrainingSettings(), PLAIN])
@pytest.mark.parametrize(
    ("whole", "cut", "told"),
    [
        (1, 0, "at least 2 images that can be decoded, found 1$"),
        (1, 3, r"at least 2 images that can be decoded, found 1; .*cut0\.jpg: .*truncated"),
        (0, 3, r"at least 2 images that can be decoded, found 0; .*cut0\.jpg: .*truncated"),
        (5, 1, "all 5 images are the same picture, so there is nothing to learn"),
    ],
)
def test_what_cannot_be_trained_on_is_told_before_tensorflow_loads(
    tmp_path, crops, settings, whole, cut, told
):
    content, steps = Path(crops[0]).read_bytes(), []
    for number in range(whole):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    for number in range(cut):
        (tmp_path / f"cut{number}.jpg").write_bytes(content[:900])
    with Collection.open(tmp_path / "c", create=True) as collection:
        with pytest.raises(EncoderError, match=told):
            collection.train(tmp_path, settings, steps.append)
        assert collection.encoders.list() == []
    assert steps == []


@pytest.mark.parametrize("seed", range(2))
def test_two_that_can_be_decoded_are_enough_wherever_they_are(tmp_path, crops, seed):
    """They would be held out both, or neither of them."""
    content = Path(crops[0]).read_bytes()
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(content[:900])
    settings = replace(SMALL, epochs=1, validation_split=0.5, seed=seed)
    with Collection.open(tmp_path / "c", create=True) as collection:
        report = collection.train([tmp_path, *crops[:2]], settings)
    assert (report.images, report.unseen, len(report.refused)) == (2, 0, 4)


def test_at_most_so_many_images_are_held_out(crops):
    """They follow every epoch, of which those of many images are not passes over all."""
    images = TrainingImages(find(crops), Frame(32, 32), most_held_out=3)
    training, validation = images.split(replace(SMALL, validation_split=0.5))
    assert (len(training), len(validation)) == (33, 3)
    assert sorted([*training, *validation]) == list(range(36))


class TestSchedule:
    """The learning rate rises for a twentieth of the training, and falls to 0 as a cosine."""

    @staticmethod
    def rate(tmp_path, *, epochs=0, seconds=0.0, recipe=VIEWS):
        settings = replace(recipe, epochs=1_000, time_budget=1_000.0)
        epoch = EpochRecord(epoch=1, loss=0, val_loss=0, seconds=1, images_per_second=1)
        state = TrainingState(settings, "", history=(epoch,) * epochs, seconds=seconds)
        rate = LearningRate(Run((36, 4), state, job(tmp_path)))
        model = create_autoencoder(16, 16, 3, 1)
        model.compile(keras.optimizers.Adam(settings.learning_rate))
        rate.set_model(model)
        rate.on_train_batch_begin(0)
        return float(model.optimizer.learning_rate) / settings.learning_rate

    @pytest.mark.parametrize(
        ("share", "rate"), [(0, 0), (0.025, 0.5), (0.05, 1), (0.525, 0.5), (0.99, 0), (1, 0)]
    )
    def test_by_epochs_or_by_time(self, tmp_path, share, rate):
        by_epochs = self.rate(tmp_path, epochs=round(1_000 * share))
        by_time = self.rate(tmp_path, seconds=1_000 * share)
        assert by_epochs == pytest.approx(rate, abs=1e-2)
        assert by_time == pytest.approx(rate, abs=1e-2)


def test_two_images_are_enough_for_views(tmp_path, crops):
    settings = replace(VIEWS, epochs=1, colours="auto")
    with Collection.open(tmp_path / "c", create=True) as collection:
        assert collection.train(crops[:2], settings).images == 2


class TestTime:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("90", 90), ("90s", 90), ("20m", 1_200), ("1.5h", 5_400)]
    )
    def test_units(self, text, seconds):
        assert _seconds(text) == seconds

    @pytest.mark.parametrize("text", ["", "m", "20 minutes", "0", "-5m", "nan"])
    def test_nonsense(self, imgsim, crops, text):
        done = imgsim("train", crops[0], "--time-budget", text)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") <= 6


def interrupt(now):
    if now.ended:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, crops):
    """A collection whose training was interrupted after an epoch."""
    path = tmp_path_factory.mktemp("interrupted") / "c"
    with Collection.open(path, create=True) as collection:
        collection.train(crops, SMALL, interrupt)
    return path


class TestResume:
    def test_a_disk_that_fills(self, tmp_path):
        def fill(path):
            path.write_bytes(b"half a model")
            raise OSError(errno.ENOSPC, "No space left on device")

        epoch = EpochRecord(epoch=1, loss=0, val_loss=0, seconds=1, images_per_second=1)
        state = TrainingState(SMALL, "", history=(epoch,), best_epoch=1)
        with pytest.raises(StoreError, match="cannot be written: No space left"):
            Checkpoints(tmp_path / "training").save(state, fill)
        assert os.listdir(tmp_path / "training") == []

    def test_after_sigkill(self, tmp_path, crops):
        """A real SIGKILL of a real process after its first epoch; the rest is trained after it."""
        collection = tmp_path / "c"
        command = [sys.executable, "-m", "imgsim", "-c", str(collection), "train"]
        options = [os.path.dirname(crops[0]), "--image-size", "32", "--batch-size", "8"]
        with subprocess.Popen(
            [*command, *options, "--epochs", "4"], stderr=subprocess.PIPE, text=True
        ) as process:
            for line in process.stderr:
                if line.startswith("epoch 2/"):
                    process.kill()
                    break
        before = json.loads((collection / "training" / "state.json").read_text())["history"]
        with Collection.open(collection) as opened:
            report = opened.train(os.path.dirname(crops[0]), resume=True)
            assert opened.check() == []
        assert before
        assert [asdict(epoch) for epoch in report.history[: len(before)]] == before
        assert [epoch.epoch for epoch in report.history] == list(range(1, 5))
        assert not (collection / "training").exists()

    def test_after_an_interrupt_that_kept_the_best(self, tmp_path, crops):
        def interrupt(now):
            if now.epoch == 2 and now.ended:
                raise KeyboardInterrupt

        with Collection.open(tmp_path / "c", create=True) as collection:
            report = collection.train(crops, SMALL, interrupt)
            assert (report.interrupted, len(report.history)) == (True, 2)
            again = collection.train(crops, resume=True)
        assert again.history[:2] == report.history
        assert len(again.history) == 3
        assert again.history[2].loss < report.history[0].loss

    def test_the_name_goes_with_the_training(self, tmp_path, crops):
        def interrupt(now):
            if now.epoch == 2 and now.ended:
                raise KeyboardInterrupt

        with Collection.open(tmp_path / "c", create=True) as collection:
            first = collection.train(crops, SMALL, interrupt, name="mine").encoder
            second = collection.train(crops, resume=True).encoder
            names = {each.fingerprint: each.name for each in collection.encoders.list()}
        assert (first.name, second.name) == ("mine", "mine")
        assert names == {first.fingerprint: first.fingerprint[:12], second.fingerprint: "mine"}

    def test_a_new_training_takes_the_place_of_an_interrupted_one(
        self, tmp_path, interrupted, crops
    ):
        """From its beginning: a kill in its first epoch leaves nothing of the other to go on."""

        def fail(now):
            if now.stage == "train":
                raise RuntimeError

        with Collection.open(shutil.copytree(interrupted, tmp_path / "c")) as collection:
            with pytest.raises(RuntimeError):
                collection.train(crops, SMALL, fail)
            with pytest.raises(EncoderError, match="no training to resume"):
                collection.train(crops, resume=True)

    @pytest.mark.parametrize("option", ["--epochs=3", "--seed=1", "--recipe=plain", "--name=x"])
    def test_other_options_are_refused(self, crops, imgsim, option):
        done = imgsim("train", crops[0], "--resume", option)
        assert done.returncode == 2
        assert b"--resume goes on as it was begun; give no other options" in done.stderr

    def test_nothing_to_resume(self, tmp_path, crops):
        with (
            Collection.open(tmp_path / "c", create=True) as collection,
            pytest.raises(EncoderError, match="no training to resume"),
        ):
            collection.train(crops, resume=True)

    def test_other_images(self, tmp_path, interrupted, crops):
        with Collection.open(shutil.copytree(interrupted, tmp_path / "c")) as collection:
            with pytest.raises(EncoderError, match="not those that the training began with"):
                collection.train(crops[1:], resume=True)
            assert collection.train(crops, resume=True).history

    def test_an_image_that_was_changed(self, tmp_path, pictures):
        """Contents count, not times."""
        first, second, *_ = sorted(pictures.iterdir())
        settings = replace(SMALL, epochs=1_000)
        with Collection.open(tmp_path / "c", create=True) as collection:
            collection.train(pictures, settings, interrupt)
            os.utime(second, ns=(0, 0))
            assert len(collection.train(pictures, None, interrupt, resume=True).history) == 2
            before, content = first.stat(), bytearray(first.read_bytes())
            content[-9] ^= 1
            first.write_bytes(content)
            os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
            with pytest.raises(EncoderError, match="some were changed"):
                collection.train(pictures, resume=True)

    @pytest.mark.parametrize("name", ["state.json", "epoch-0001.keras"])
    def test_a_broken_checkpoint(self, tmp_path, interrupted, crops, name):
        shutil.copytree(interrupted, tmp_path / "c")
        (tmp_path / "c" / "training" / name).write_bytes(b"x")
        with (
            Collection.open(tmp_path / "c") as collection,
            pytest.raises(EncoderError, match=name),
        ):
            collection.train(crops, resume=True)


def test_what_is_excluded_stays_so_when_the_training_goes_on(tmp_path, pictures):
    """The pattern is a setting, so that the images are the same ones."""
    (pictures / "@eaDir").mkdir()
    settings = replace(SMALL, exclude=["rocket*"])
    with Collection.open(tmp_path / "c", create=True) as collection:
        first = collection.train(pictures, settings, interrupt)
        again = collection.train(pictures, resume=True)
    assert (first.images, again.images) == (30, 30)
    assert first.excluded == again.excluded == {"@eaDir/": 1, "rocket*": 6}


def test_a_collection_with_vectors_keeps_them(filled, crops):
    before = filled.info()
    report = filled.train(crops, replace(SMALL, epochs=1), name="new")
    assert (report.encoder.name, report.encoder.active) == ("new", False)
    assert replace(filled.info(), disk_bytes=before.disk_bytes) == before
    assert filled.encoders.reencode("new").switched


def test_a_name_that_is_taken_is_refused_before_the_training(filled, crops):
    (taken,) = (encoder.name for encoder in filled.encoders.list())
    told = []
    with pytest.raises(EncoderError, match="has the name"):
        filled.train(crops, SMALL, told.append, name=taken)
    assert told == []


def test_convolutions_are_those_of_onednn():
    program = (
        "from imgsim.training.runtime import tensorflow\n"
        "with tensorflow():\n"
        "    import tensorflow.python.util._pywrap_util_port as port\n"
        "assert port.IsMklEnabled()\n"
    )
    environment = {name: value for name, value in os.environ.items() if "ONEDNN" not in name}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize("before", [True, False])
def test_no_garbage_is_looked_for_while_tensorflow_is_loaded(before):
    if not before:
        gc.disable()
    try:
        with tensorflow():
            assert not gc.isenabled()
        assert gc.isenabled() == before
    finally:
        gc.enable()
