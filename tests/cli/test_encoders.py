"""The commands about pretrained and adapted encoders."""

import json
import os

import pytest

from imgsim import Collection, EncoderSource
from imgsim.encoder.pretrained import networks
from tests.models import write_projection

installed = pytest.mark.skipif(not networks()[0].installed, reason="its weights are not installed")


@pytest.fixture
def bare(tmp_path):
    path = tmp_path / "c"
    with Collection.open(path, create=True) as collection:
        model = write_projection(tmp_path / "m.onnx", dim=40)
        collection.encoders.add(EncoderSource(model, "bare"))
    return path


def test_networks_are_listed_without_a_collection(imgsim, tmp_path):
    done = imgsim("-c", tmp_path / "none", "encoder", "pretrained")
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["name", "values", "image", "weights"]
    assert lines[1].split()[:3] == ["efficientnet-lite0", "1,280", "224x224"]
    done = imgsim("-c", tmp_path / "none", "encoder", "pretrained", "--json")
    assert [each["side"] for each in json.loads(done.stdout)["networks"]][:3] == [224, 240, 260]
    assert not (tmp_path / "none").exists()


@installed
def test_a_network_is_added_and_adapted(imgsim, tmp_path, crops):
    path, folder = tmp_path / "c", os.path.dirname(crops[0])
    done = imgsim("-c", path, "encoder", "pretrained", "efficientnet-lite0")
    assert b"encoder efficientnet-lite0: 1,280 values" in done.stderr
    done = imgsim("-c", path, "encoder", "adapt", "efficientnet-lite0", folder, "--dims", "8")
    assert (
        b"encoder efficientnet-lite0-adapted: 8 values an embedding, fitted to 36 images; how "
        b"much colours count: little" in done.stderr
    )
    done = imgsim("-c", path, "ingest", folder)
    assert done.returncode == 0
    assert b"36 added" in done.stderr


def test_mistakes_leave_no_collection(imgsim, tmp_path):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"no weights")
    for arguments, told in [
        (["vgg"], b"there is no network vgg; there are: efficientnet-lite0"),
        (["efficientnet-lite0", "--weights", weights], b"w.pth: is no file of weights"),
        (["efficientnet-lite0", "--weights", tmp_path / "none"], b"cannot be read"),
    ]:
        done = imgsim("-c", tmp_path / "c", "encoder", "pretrained", *arguments)
        assert done.returncode == 30
        assert done.stderr.count(b"\n") == 1
        assert told in done.stderr
        assert not (tmp_path / "c").exists()


def test_what_it_gains_is_told(imgsim, bare, crops, tmp_path):
    folder, table = os.path.dirname(crops[0]), tmp_path / "labels.csv"
    names = [os.path.basename(path) for path in crops]
    table.write_text("path,kind\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    options = "--dims", "8", "--labels", table, "--column", "kind", "--json"
    done = imgsim("-c", bare, "encoder", "adapt", "bare", folder, *options)
    report = json.loads(done.stdout)
    assert set(report["encoders"]) == {"bare", "bare-adapted"}
    for name, scores in report["encoders"].items():
        p10, precision = scores["p10"]["value"], scores["map"]["value"]
        assert f"{name}: P@10 {p10:.3f}, mAP {precision:.3f}" in done.stderr.decode()
    pair = "--encoder", "bare", "--encoder", "bare-adapted"
    labels = "--labels", table, "--column", "kind"
    done = imgsim("-c", bare, "evaluate", folder, *labels, *pair)
    rows = [line.split()[0] for line in done.stdout.decode().splitlines()[1:5]]
    assert rows == ["bare", "bare-adapted", "pixels", "HSV"]


def test_wrong_arguments(imgsim, bare, crops):
    for arguments, code in [
        (["bare"], 2),
        (["bare", *crops[:2], "--labels", "folders"], 2),
        (["bare", crops[0], "--colours", "loud"], 2),
        (["none", *crops], 31),
        (["bare", crops[0]], 30),
        (["bare", *crops, "--name", "bare"], 30),
    ]:
        done = imgsim("-c", bare, "encoder", "adapt", *arguments)
        assert (done.returncode, done.stdout) == (code, b"")
