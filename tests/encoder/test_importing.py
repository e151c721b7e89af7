import json
import os
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from imgsim import Collection, EncoderError, EncoderSource, StoreError, TrainingSettings
from imgsim.encoder.encoder import Encoder
from imgsim.images.decode import decode
from imgsim.images.frame import Frame
from tests.conftest import file_limit
from tests.models import write_model, write_projection


@pytest.fixture
def collection(tmp_path):
    with Collection.open(tmp_path / "c", create=True) as opened:
        yield opened


def adopted(collection, file, **options):
    """Import a file and return the encoder and the warnings."""
    report = collection.encoders.add(EncoderSource(str(file), **options))
    encoder = Encoder(Path(report.encoder.directory))
    assert (encoder.fingerprint, encoder.preprocessing.dim) == (
        report.encoder.fingerprint,
        report.encoder.dim,
    )
    return encoder, report.warnings


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


class TestFeeding:
    """The test model gives back its input, so the vector shows what it was fed."""

    @pytest.mark.parametrize("shape", [("n", 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8)])
    def test_batches(self, collection, tmp_path, image, shape):
        encoder, warnings = adopted(collection, write_model(tmp_path / "m.onnx", shape))
        expected = (image.transpose(2, 0, 1) * np.float32(1 / 255)).ravel()
        assert np.array_equal(encoder.encode(image[np.newaxis])[0], expected)
        assert warnings == ()

    @pytest.mark.parametrize(
        ("preset", "gain", "offset"),
        [
            ("imagenet", 1 / 255 / 0.229, -0.485 / 0.229),
            ("dinov2", 1 / 255 / 0.229, -0.485 / 0.229),
            ("clip", 1 / 255 / 0.26862954, -0.48145466 / 0.26862954),
            ("mobilenet", 1 / 127.5, -1.0),
            ("efficientnet", 1 / 128, -127 / 128),
        ],
    )
    def test_presets(self, collection, tmp_path, image, preset, gain, offset):
        """Red, that is; the model says its size itself."""
        path = write_model(tmp_path / "m.onnx", ("n", 3, 8, 8))
        encoder, warnings = adopted(collection, path, preset=preset)
        fed = encoder.preprocessing.tensor(image)
        assert np.allclose(fed[0], image[..., 0] * gain + offset, atol=1e-5)
        assert np.linalg.norm(encoder.encode(image[np.newaxis])) == pytest.approx(1, abs=1e-5)
        assert encoder.preprocessing.frame == Frame(8, 8, "crop")
        assert warnings == ()

    def test_options_go_before_the_preset(self, collection, tmp_path):
        path = write_model(tmp_path / "m.onnx", ("n", 3, "h", "w"))
        encoder, _ = adopted(collection, path, preset="clip")
        assert encoder.preprocessing.height == 224
        chosen = {"image_size": 32, "std": (1.0, 1.0, 1.0), "mean": (0.0, 0.0, 0.0)}
        encoder, _ = adopted(collection, path, preset="clip", fit="stretch", **chosen)
        fed = encoder.preprocessing
        assert (fed.frame, fed.mean, fed.std) == (Frame(32, 32), (0, 0, 0), (1, 1, 1))
        for wrong in ({"preset": "vgg"}, {"fit": "vgg"}):
            with pytest.raises(ValueError, match="vgg"):
                EncoderSource(path, **wrong)

    def test_cropped_images_are_known_by_their_middle(self, collection, tmp_path, crops):
        """Wherever they come from: ingested, and asked for as a path, as bytes and as pixels."""
        adopted(collection, write_projection(tmp_path / "m.onnx"), fit="crop")
        with Image.open(crops[0]) as opened:
            middle = opened.convert("RGB").resize((40, 40))
        for name, size, at in (("wide", (120, 40), (40, 0)), ("tall", (40, 90), (0, 25))):
            whole = Image.new("RGB", size, "grey")
            whole.paste(middle, at)
            whole.save(tmp_path / f"{name}.png")
        collection.ingest([tmp_path, *crops[1:]])
        file = tmp_path / "wide.png"
        for query in (file, file.read_bytes(), np.asarray(Image.open(file)), middle):
            first, second = collection.query(query, k=2)[0].matches
            assert {Path(match.path).stem for match in (first, second)} == {"wide", "tall"}
            assert first.distance == 0 or query is middle

    def test_free_sizes(self, collection, tmp_path, image):
        path = write_model(tmp_path / "m.onnx", ("n", 3, "h", "w"))
        with pytest.raises(EncoderError, match="--image-size"):
            adopted(collection, path)
        encoder, _ = adopted(collection, path, image_size=8)
        assert encoder.encode(image[np.newaxis]).shape == (1, 192)

    @pytest.mark.parametrize("kind", ["float", "float16", "uint8"])
    def test_types(self, collection, tmp_path, image, kind):
        path = write_model(tmp_path / "m.onnx", ("n", 8, 8, 3), kind)
        encoder, _ = adopted(collection, path, scale="0..255")
        assert np.array_equal(encoder.encode(image[np.newaxis])[0], image.ravel())

    def test_bytes_are_not_scaled(self, collection, tmp_path, image):
        path = write_model(tmp_path / "m.onnx", ("n", 8, 8, 3), "uint8")
        encoder, _ = adopted(collection, path)
        assert np.array_equal(encoder.encode(image[np.newaxis])[0], image.ravel())

    def test_mean_deviation_and_order(self, collection, tmp_path, image):
        mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.4)
        path = write_model(tmp_path / "m.onnx", ("n", 8, 8, 3))
        encoder, _ = adopted(collection, path, mean=mean, std=std, channels="bgr")
        expected = (image[..., ::-1] / 255 - mean) / std
        assert np.allclose(encoder.encode(image[np.newaxis])[0], expected.ravel(), atol=1e-5)

    def test_unit_length(self, collection, tmp_path, image):
        path = write_projection(tmp_path / "m.onnx")
        encoder, _ = adopted(collection, path, normalize=True)
        assert np.linalg.norm(encoder.encode(image[np.newaxis])) == pytest.approx(1)
        black = encoder.encode(np.zeros((1, 8, 8, 3), np.uint8))
        assert not black.any()

    @pytest.mark.parametrize("output", [("n", 3, 8, 8), (3, 8, 8), ("a", "b", "c", "d")])
    def test_an_output_of_any_shape_is_flattened(self, collection, tmp_path, image, output):
        kind = "Squeeze" if len(output) == 3 else "Identity"
        nodes = [helper.make_node(kind, ["x", "axis"][: 1 + (kind == "Squeeze")], ["latent"])]
        shape = (1, 3, 8, 8)
        path = write_model(
            tmp_path / "m.onnx", shape, nodes=nodes, output=output, weights={"axis": np.array([0])}
        )
        encoder, _ = adopted(collection, path)
        assert encoder.preprocessing.dim == 192

    def test_one_of_several_outputs(self, collection, tmp_path, image):
        nodes = [
            helper.make_node("Flatten", ["x"], ["tokens"]),
            helper.make_node("Neg", ["tokens"], ["pooled"]),
        ]
        path = write_model(tmp_path / "m.onnx", nodes=nodes, outputs=("tokens", "pooled"))
        with pytest.raises(EncoderError, match=r"--output: tokens .* pooled"):
            adopted(collection, path)
        with pytest.raises(EncoderError, match="no output other; it has tokens, pooled"):
            adopted(collection, path, output="other")
        encoder, _ = adopted(collection, path, output="pooled")
        assert (encoder.encode(image[np.newaxis]) <= 0).all()

    def test_the_same_file_fed_otherwise_is_another_encoder(self, collection, tmp_path, image):
        path = write_model(tmp_path / "m.onnx")
        one, _ = adopted(collection, path)
        two, _ = adopted(collection, path, mean=(0.5, 0.5, 0.5))
        assert not np.array_equal(one.encode(image[np.newaxis]), two.encode(image[np.newaxis]))
        assert len(collection.encoders.list()) == 2
        assert adopted(collection, path)[0].fingerprint == one.fingerprint
        assert len(collection.encoders.list()) == 2

    def test_the_same_encoder_under_another_name(self, collection, tmp_path):
        path = write_model(tmp_path / "m.onnx")
        collection.encoders.add(EncoderSource(path, "mine"))
        with pytest.raises(EncoderError, match="is there already, as mine; `--rename`"):
            collection.encoders.add(EncoderSource(path, "ours"))
        assert collection.encoders.add(EncoderSource(path)).encoder.name == "mine"
        again = collection.encoders.add(EncoderSource(path, "ours"), rename=True)
        assert (
            [each.name for each in collection.encoders.list()] == [again.encoder.name] == ["ours"]
        )

    @pytest.mark.parametrize("change", [('"mean": [\n    0.5', '"mean": [\n    0.4'), ("{", "")])
    def test_how_it_is_fed_is_covered_by_its_checksum(self, collection, tmp_path, image, change):
        path = write_model(tmp_path / "m.onnx")
        report = collection.encoders.add(EncoderSource(path, "mine", mean=(0.5, 0.5, 0.5)))
        folder = Path(report.encoder.directory)
        before = Encoder(folder).encode(image[np.newaxis])
        told = (folder / "encoder.json").read_text()
        assert change[0] in told
        (folder / "encoder.json").write_text(told.replace(*change, 1))
        assert np.array_equal(Encoder(folder).encode(image[np.newaxis]), before)
        (damage,) = collection.check()
        assert damage.path == str(folder / "encoder.json")
        collection.repair()
        assert (folder / "encoder.json").read_text() == told
        assert collection.check() == []

    def test_weights_beside_the_model(self, collection, tmp_path, image):
        path = write_projection(tmp_path / "m.onnx", side=8, dim=64)
        model = onnx.load(path)
        onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, size_threshold=0)
        assert len(os.listdir(tmp_path)) == 4  # the collection, two models, and weights
        whole, _ = adopted(collection, path)
        apart, _ = adopted(collection, tmp_path / "apart.onnx")
        assert np.array_equal(apart.encode(image[np.newaxis]), whole.encode(image[np.newaxis]))

    def test_the_encoder_of_another_collection(self, collection, tmp_path, crops):
        """A trained one takes pixels of 0..255, an imported one was fed as was said then."""
        with Collection.open(tmp_path / "other", create=True) as other:
            first = other.encoders.add(
                EncoderSource(
                    write_model(tmp_path / "m.onnx"), mean=(0.5, 0.4, 0.3), normalize=True
                )
            ).encoder
            settings = TrainingSettings(image_size=16, epochs=1, batch_size=8, colours="none")
            second = other.train(crops, settings).encoder
        for theirs in (first, second):
            ours, _ = adopted(collection, Path(theirs.directory) / "encoder.onnx")
            assert ours.fingerprint == theirs.fingerprint
            assert ours.preprocessing == Encoder(Path(theirs.directory)).preprocessing
        decided, _ = adopted(
            collection, Path(first.directory) / "encoder.onnx", layout="nchw", mean=(0.1, 0.1, 0.1)
        )
        assert decided.preprocessing.mean == (0.1, 0.1, 0.1)


class TestRefusals:
    @pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07", None])
    def test_no_onnx_file(self, collection, tmp_path, content):
        path = tmp_path / "m.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(EncoderError, match=r"m\.onnx"):
            adopted(collection, path)
        assert collection.encoders.list() == []
        assert os.listdir(collection.path / "encoders") == []

    @pytest.mark.parametrize(
        ("shape", "options", "message"),
        [
            (("n", 192), {}, "4 axes"),
            (("n", 1, 8, 8), {"layout": "nchw"}, "3 channels"),
            (("n", 8, 8, 3), {"layout": "nchw"}, "3 channels"),
            (("n", "a", "b", "c"), {"image_size": 8}, "--layout"),
            (("n", 3, 8, 8), {"image_size": 9}, "takes images of 8"),
            (("n", 3, 8, 8), {"std": (1, 0, 1)}, "std"),
            (("n", 3, 8, 8), {"mean": (1, float("nan"), 1)}, "mean"),
        ],
    )
    def test_what_does_not_fit(self, collection, tmp_path, shape, options, message):
        with pytest.raises(EncoderError, match=message):
            adopted(collection, write_model(tmp_path / "m.onnx", shape), **options)

    @pytest.mark.parametrize(
        "options", [{"mean": (123.7, 116.8, 103.9)}, {"std": (2, 2, 2)}, {"scale": "0..1"}]
    )
    def test_bytes_that_would_be_scaled(self, collection, tmp_path, options):
        path = write_model(tmp_path / "m.onnx", kind="uint8")
        with pytest.raises(EncoderError, match="leave out --preset, --scale"):
            adopted(collection, path, **options)

    @pytest.mark.parametrize("name", ["m.json", "m.prototxt", "m.textproto", "m.onnxtxt"])
    def test_no_onnx_file_by_another_name(self, collection, tmp_path, name):
        (tmp_path / name).write_text("{}")
        with pytest.raises(EncoderError, match=name):
            adopted(collection, tmp_path / name)

    def test_an_output_of_words(self, collection, tmp_path):
        words = [
            helper.make_node("Cast", ["x"], ["words"], to=TensorProto.STRING),
            helper.make_node("Flatten", ["words"], ["latent"]),
        ]
        path = write_model(tmp_path / "m.onnx", nodes=words, output_kind=TensorProto.STRING)
        with pytest.raises(EncoderError, match="no output of numbers"):
            adopted(collection, path)

    def test_a_name_that_is_taken(self, collection, tmp_path):
        adopted(collection, write_model(tmp_path / "a.onnx"), name="mine")
        with pytest.raises(EncoderError, match="has the name mine"):
            adopted(collection, write_projection(tmp_path / "b.onnx"), name="mine")
        assert len(os.listdir(collection.path / "encoders")) == 1

    def test_a_broken_file_of_ours_is_mended(self, collection, tmp_path):
        path = write_model(tmp_path / "m.onnx")
        encoder, _ = adopted(collection, path)
        file = collection.path / "encoders" / encoder.fingerprint / "encoder.onnx"
        file.write_bytes(b"x")
        assert len(collection.check()) == 1
        assert adopted(collection, path)[0].fingerprint == encoder.fingerprint
        assert collection.check() == []

    def test_a_size_that_the_model_cannot_take(self, collection, tmp_path):
        nodes = [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["latent"]),
        ]
        weights = {"matrix": np.zeros((192, 2), np.float32)}
        path = write_model(tmp_path / "m.onnx", ("n", 3, "h", "w"), nodes=nodes, weights=weights)
        with pytest.raises(EncoderError, match="fails on an image"):
            adopted(collection, path, image_size=9)

    def test_different_rows_for_the_same_image(self, collection, tmp_path):
        nodes = [
            helper.make_node("RandomNormalLike", ["x"], ["noise"]),
            helper.make_node("Flatten", ["noise"], ["latent"]),
        ]
        with pytest.raises(EncoderError, match="different embeddings for the same image"):
            adopted(collection, write_model(tmp_path / "m.onnx", nodes=nodes))

    def test_values_that_are_not_finite(self, collection, tmp_path):
        nodes = [
            helper.make_node("Log", ["x"], ["log"]),
            helper.make_node("Flatten", ["log"], ["latent"]),
        ]
        with pytest.raises(EncoderError, match="not finite"):
            adopted(collection, write_model(tmp_path / "m.onnx", nodes=nodes))


class TestWarnings:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mean": (0.406, 0.456, 0.485)}, "other order of channels"),
            ({"mean": (0.485, 0.456, 0.406), "channels": "bgr"}, "other order of channels"),
            ({"mean": (103.9, 116.8, 123.7), "scale": "0..255"}, "other order of channels"),
            ({"mean": (123.7, 116.8, 103.9)}, "--scale"),
            ({"mean": (0.485, 0.456, 0.406), "scale": "0..255"}, "--scale"),
            ({"std": (0.229, 0.224, 0.225), "scale": "0..255"}, "--scale"),
            ({"std": (58.4, 57.1, 57.4)}, "--scale"),
        ],
    )
    def test_statistics_that_look_wrong(self, collection, tmp_path, options, message):
        path = write_model(tmp_path / "m.onnx")
        (warning,) = adopted(collection, path, **options)[1]
        assert message in warning

    @pytest.mark.parametrize(
        "options",
        [
            {"mean": (0.485, 0.456, 0.406)},
            {"mean": (0.406, 0.456, 0.485), "channels": "bgr"},
            {"mean": (123.7, 116.8, 103.9), "scale": "0..255"},
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        ],
    )
    def test_statistics_that_look_right(self, collection, tmp_path, options):
        assert adopted(collection, write_model(tmp_path / "m.onnx"), **options)[1] == ()

    def test_the_same_row_for_every_image(self, collection, tmp_path):
        nodes = [
            helper.make_node("Sub", ["x", "x"], ["zero"]),
            helper.make_node("Flatten", ["zero"], ["latent"]),
        ]
        path = write_model(tmp_path / "m.onnx", nodes=nodes)
        assert "same embedding" in adopted(collection, path)[1][0]


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, strides=4, name="features")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    model.save(path)
    return path


class TestKeras:
    def test_a_layer(self, collection, keras_file, crops):
        encoder, _ = adopted(collection, keras_file, layer="features", name="mine")
        pixels = decode(crops[0], Frame(16, 16))[np.newaxis]
        model = keras.models.load_model(keras_file)
        part = keras.Model(model.input, model.get_layer("features").output)
        expected = part.predict(pixels.astype(np.float32), verbose=0).ravel()
        assert np.allclose(encoder.encode(pixels)[0], expected, atol=1e-5)
        assert collection.encoders.get("mine").active

    def test_a_free_size_is_the_one_asked_for(self, collection, tmp_path):
        image = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(2, 40, name="wide")(image)
        model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
        model.save(tmp_path / "free.keras")
        encoder, _ = adopted(collection, tmp_path / "free.keras", layer="wide", image_size=48)
        assert encoder.preprocessing.dim == 9 * 9 * 2
        with pytest.raises(EncoderError, match=r"free\.keras"):
            adopted(collection, tmp_path / "free.keras", layer="wide", image_size=32)

    def test_a_layer_that_is_a_model(self, collection, tmp_path):
        """As of transfer learning: the layer's output is not that of the image."""
        pixels, image = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
        inner = keras.Model(pixels, keras.layers.Flatten()(pixels), name="inner")
        keras.Model(image, keras.layers.Dense(2)(inner(image))).save(tmp_path / "nested.keras")
        with pytest.raises(EncoderError, match=r"nested\.keras"):
            adopted(collection, tmp_path / "nested.keras", layer="inner")

    @pytest.mark.parametrize(("name", "layer"), [("m.keras", "nonsense"), ("gone.keras", "x")])
    def test_refusals(self, collection, keras_file, name, layer):
        with pytest.raises(EncoderError, match=name):
            adopted(collection, keras_file.with_name(name), layer=layer)

    def test_a_full_disk_is_not_the_fault_of_the_file(self, collection, keras_file):
        with file_limit(100), pytest.raises(StoreError, match=r"encoder\.onnx: cannot be written"):
            adopted(collection, keras_file, layer="features")


class TestCommand:
    def test_import_list_show_and_ingest(self, imgsim, tmp_path, pictures):
        path = write_projection(tmp_path / "m.onnx")
        ask = ("encoder", "import", path, "--name", "mine", "--mean", "0.4,0.456,0.485")
        done = imgsim(*ask, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["encoder"]["name"] == "mine"
        assert b"warning: the mean is ImageNet's in the other order" in done.stderr
        assert imgsim("ingest", pictures).returncode == 0
        listed = imgsim("encoder", "list").stdout.decode().splitlines()
        assert listed[1].split()[:5] == ["*", "mine", "5", "8x8", "36"]
        shown = json.loads(imgsim("encoder", "show", "mine").stdout)
        assert (shown["active"], shown["embeddings"], shown["preprocessing"]["layout"]) == (
            True,
            36,
            "nchw",
        )
        missing = imgsim("encoder", "show", "yours")
        assert missing.returncode == 31
        assert b"it has: mine" in missing.stderr

    @pytest.mark.parametrize(
        "arguments",
        [(), ("a.onnx", "--keras", "b"), ("--keras", "b"), ("a.onnx", "--mean", "1,2")],
    )
    def test_wrong_arguments(self, imgsim, arguments):
        assert imgsim("encoder", "import", *arguments).returncode == 2

    def test_no_model(self, imgsim, tmp_path):
        (tmp_path / "m.onnx").write_text("no model")
        done = imgsim("encoder", "import", tmp_path / "m.onnx")
        assert done.returncode == 30
        assert done.stderr.count(b"\n") == 1
