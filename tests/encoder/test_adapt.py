import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from imgsim import (
    AdaptSettings,
    Collection,
    EncoderError,
    EncoderMissing,
    EncoderSource,
    EvaluationSettings,
    StoreError,
)
from tests.models import write_projection

COUNT = 36  # crops


@pytest.fixture
def collection(tmp_path):
    model = write_projection(tmp_path / "m.onnx", dim=40)
    with Collection.open(tmp_path / "c", create=True) as opened:
        opened.encoders.add(EncoderSource(model, "bare"))
        yield opened


def test_an_adapted_encoder_is_used_like_any_other(collection, crops):
    told = []
    report = collection.encoders.adapt(
        "bare", crops, AdaptSettings(dims=8), lambda *done: told.append(done)
    )
    assert (report.images, report.refused, report.excluded) == (COUNT, (), {})
    assert (report.encoder.name, report.encoder.dim, report.encoder.active) == (
        "bare-adapted",
        8,
        True,
    )
    assert report.colours == "little"  # few images do not tell
    assert told[-1] == (COUNT, COUNT)
    collection.ingest(crops)
    rows = collection.embed(crops)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
    results = collection.query(crops[:3], 1)
    assert [result.matches[0].path for result in results] == crops[:3]
    assert collection.check() == []


def test_it_takes_over_only_by_reencode_where_there_are_embeddings(collection, crops):
    collection.ingest(crops)
    report = collection.encoders.adapt("bare", crops, AdaptSettings(dims=8), new_name="mine")
    assert not report.encoder.active
    assert collection.encoders.reencode("mine").switched
    assert collection.info().dim == 8


def test_in_integers_it_gives_nearly_the_same(collection, crops, caplog):
    def rows(name, **options):
        settings = AdaptSettings(dims=0, colours="none", **options)
        report = collection.encoders.adapt("bare", crops, settings, new_name=name)
        return report.encoder, collection.embed(crops)

    in_floats, expected = rows("floats")
    in_integers, found = rows("integers", int8=True)
    assert in_integers.fingerprint != in_floats.fingerprint
    assert not np.array_equal(found, expected)
    assert np.sum(found * expected, axis=1).min() > 0.98
    model = onnx.load(Path(in_integers.directory) / "encoder.onnx")
    kinds = {each.data_type for each in model.graph.initializer if len(each.dims) == 2}
    assert onnx.TensorProto.INT8 in kinds
    assert not caplog.records
    with pytest.raises(EncoderError, match="again: is there already, as integers"):
        rows("again", int8=True)


def test_the_same_images_give_the_same_encoder(collection, crops, tmp_path):
    first = collection.encoders.adapt("bare", crops, AdaptSettings(dims=8), new_name="one")
    with Collection.open(tmp_path / "other", create=True) as other:
        other.encoders.add(EncoderSource(str(tmp_path / "m.onnx"), "bare"))
        second = other.encoders.adapt("bare", crops, AdaptSettings(dims=8), new_name="one")
    assert first.encoder.fingerprint == second.encoder.fingerprint


def test_the_same_encoder_does_not_get_another_name(collection, crops):
    collection.encoders.adapt("bare", crops, AdaptSettings(dims=8), new_name="one")
    with pytest.raises(EncoderError, match="is there already, as one"):
        collection.encoders.adapt("bare", crops, AdaptSettings(dims=8), new_name="two")
    assert [each.name for each in collection.encoders.list()] == ["bare", "one"]


def test_few_images_keep_all_values(collection, crops):
    report = collection.encoders.adapt("bare", crops[:5], AdaptSettings(colours="none"))
    assert report.encoder.dim == 40


def test_only_so_many_are_drawn(collection, crops):
    assert collection.encoders.adapt("bare", crops, AdaptSettings(most=20)).images == 20


def test_damaged_images_are_left_out(collection, crops, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(crops[0]).read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no picture")
    report = collection.encoders.adapt("bare", [*crops, cut, tmp_path / "text.jpg"])
    assert report.images == COUNT
    assert sorted(os.path.basename(each.path) for each in report.refused) == ["cut.jpg", "text.jpg"]


def test_integers_are_calibrated_on_what_can_be_decoded(collection, crops, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(crops[0]).read_bytes()[:900])
    with pytest.raises(EncoderError, match="0 can be decoded"):
        collection.encoders.adapt("bare", [cut], AdaptSettings(int8=True))
    assert (
        collection.encoders.adapt("bare", [cut, *crops[:3]], AdaptSettings(int8=True)).images == 3
    )


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_is_too_few(collection, crops, tmp_path, count):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(crops[0]).read_bytes()[:900])
    with pytest.raises(EncoderError, match=f"{count} can be decoded; .*cut.jpg"):
        collection.encoders.adapt("bare", [*crops[:count], cut])
    assert [each.name for each in collection.encoders.list()] == ["bare"]
    assert len(os.listdir(collection.path / "encoders")) == 1


def test_names(collection, crops):
    with pytest.raises(EncoderMissing, match="no encoder none"):
        collection.encoders.adapt("none", crops)
    with pytest.raises((EncoderError, StoreError), match="bare"):
        collection.encoders.adapt("bare", crops, new_name="bare")


@pytest.mark.parametrize(
    "wrong", [{"dims": -1}, {"colours": "loud"}, {"most": 1}, {"seed": -1}, {"max_pixels": 0}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own message
        AdaptSettings(**wrong)


def test_encoders_are_evaluated_side_by_side(collection, crops, tmp_path):
    collection.encoders.adapt("bare", crops, AdaptSettings(dims=8))
    table = tmp_path / "labels.csv"
    folder = os.path.dirname(crops[0])
    names = [os.path.basename(path) for path in crops]
    table.write_text("path,label\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    settings = EvaluationSettings(str(table))
    both = collection.evaluate(folder, settings, encoders=["bare-adapted", "bare"])
    assert list(both.encoders) == ["bare-adapted", "bare"]
    assert both.embeddings == both.encoders["bare-adapted"]
    for name in both.encoders:
        alone = collection.evaluate(folder, settings, encoders=[name])
        assert alone.encoders == {name: both.encoders[name]}
    assert collection.evaluate(folder, settings).embeddings == both.embeddings  # the active one
    with pytest.raises(EncoderMissing):
        collection.evaluate(folder, settings, encoders=["none"])
