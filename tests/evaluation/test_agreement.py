import numpy as np
import pytest

from imgsim import Collection, EncoderSource, EvaluationSettings, LabelError
from imgsim.evaluation.agreement import _agreement
from imgsim.images.variants import cropped, resaved
from tests.models import write_projection


def test_it_is_the_share_of_neighbours_that_stay():
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 8)).astype(np.float32)
    moved = np.roll(rows, 1, axis=0)
    found = _agreement(rows, rows + np.float32(1e-6), moved)
    assert found.cropped == 1
    distances = np.linalg.norm(rows[:, np.newaxis] - rows, axis=2)
    np.fill_diagonal(distances, np.inf)
    others = np.linalg.norm(moved[:, np.newaxis] - rows, axis=2)
    np.fill_diagonal(others, np.inf)
    both = zip(distances.argsort(axis=1)[:, :10], others.argsort(axis=1)[:, :10], strict=True)
    assert found.resaved == pytest.approx(np.mean([len(set(a) & set(b)) / 10 for a, b in both]))


def test_variants_keep_the_size_and_most_of_the_picture():
    image = np.zeros((48, 65, 3), np.uint8)
    image[8:40, 8:50] = [200, 120, 40]
    for variant in (cropped(image, np.random.default_rng(0)), resaved(image)):
        assert variant.shape == image.shape
        assert variant.dtype == np.uint8
        assert 0 < np.abs(variant.astype(int) - image).mean() < 60
    one = resaved(np.zeros((1, 1, 3), np.uint8))
    assert one.shape == (1, 1, 3)


def test_encoders_are_compared(tmp_path, crops):
    with Collection.open(tmp_path / "c", create=True) as collection:
        for seed, name in enumerate(("one", "other")):
            model = write_projection(tmp_path / f"{name}.onnx", dim=30, seed=seed)
            collection.encoders.add(EncoderSource(model, name))
        report = collection.agreement(crops, encoders=["one", "other"])
        assert report.images == 36
        assert list(report.encoders) == ["one", "other"]
        for each in report.encoders.values():
            assert 0.2 < each.cropped < each.resaved <= 1
        assert collection.agreement(crops, encoders=["one", "other"]) == report
        drawn = collection.agreement(crops, EvaluationSettings(queries=20))
        assert drawn.images == 20
        broken = tmp_path / "broken.jpg"
        broken.write_text("no picture")
        with pytest.raises(LabelError, match="11 images can be decoded"):
            collection.agreement([*crops[:11], broken])
        more = collection.agreement([*crops, broken])
        assert [refusal.path for refusal in more.refused] == [str(broken)]


def test_on_the_command_line(imgsim, tmp_path, crops):
    path = tmp_path / "c"
    with Collection.open(path, create=True) as collection:
        collection.encoders.add(EncoderSource(write_projection(tmp_path / "m.onnx"), "one"))
    folder = crops[0].rpartition("/")[0]
    done = imgsim("-c", path, "evaluate", folder, "--unlabelled")
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["encoder", "cropped", "saved", "again"]
    assert lines[1].split()[0] == "one"
    assert lines[2].startswith("shares of the 10 nearest of 36 images")
    wrong = imgsim("-c", path, "evaluate", folder, "--unlabelled", "--labels", "x.csv")
    assert (wrong.returncode, wrong.stdout) == (2, b"")


def test_an_empty_list_is_not_the_folder(imgsim, tmp_path, crops):
    path, listed = tmp_path / "c", tmp_path / "list.txt"
    with Collection.open(path, create=True) as collection:
        collection.encoders.add(EncoderSource(write_projection(tmp_path / "m.onnx"), "one"))
    listed.write_text("")
    folder = crops[0].rpartition("/")[0]
    done = imgsim("-c", path, "evaluate", folder, "--unlabelled", "--from-file", listed)
    assert (done.returncode, done.stdout) == (50, b"")
    assert b"0 images can be decoded" in done.stderr
