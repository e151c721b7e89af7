"""A collection from somebody else: nothing outside it changes, whatever is done with it."""

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from imgsim import Collection, EncoderError, EncoderSource, ImgsimError
from imgsim.encoder.encoder import Encoder
from tests.conftest import open_small
from tests.models import write_projection


@pytest.fixture
def victim(tmp_path):
    """A folder of somebody's files, with names as in a collection."""
    folder = tmp_path / "victim"
    (folder / "deep").mkdir(parents=True)
    (folder / f"{'ab' * 32}").mkdir()
    for name in (
        *("letter.txt", "state.json", "epoch-0001.keras", "catalog.db", "deep/photo.jpg"),
        *("0123456789abcdef.faiss", "0123456789abcdef.bounds", "basis.npz", f"{'ab' * 32}/x"),
    ):
        (folder / name).write_text(f"mine: {name}")
    return folder


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def do_everything(path, pictures, tmp_path):
    """Do all that writes to a collection or sweeps it, however it ends."""
    model = write_projection(tmp_path / "other.onnx")
    new = sorted(pictures.iterdir())
    for act in (
        lambda c: c.ingest(new[:30]),
        lambda c: c.remove(new[:5]),
        lambda c: c.compact(),
        lambda c: c.check(),
        lambda c: c.repair(),
        lambda c: c.prune(),
        lambda c: c.encoders.add(EncoderSource(str(model), "other"), rename=True),
        lambda c: c.encoders.reencode("other"),
        lambda c: c.compact(),
        lambda c: [c.encoders.remove(e.name) for e in c.encoders.list() if not e.active],
        lambda c: c.ingest(new),
        lambda c: c.query(str(new[0])),
        lambda c: c.export_neighbours(tmp_path / "n.csv"),
    ):
        with suppress(ImgsimError), Collection.open(path) as collection:
            with suppress(ImgsimError), open_small(path) as small:
                act(small)
            act(collection)


@pytest.mark.parametrize(
    "name",
    ["segments", "encoders", "training", "lock", "readers", "catalog.db", "catalog.db-wal"],
)
@pytest.mark.parametrize("hard", [False, True])
def test_links_in_place_of_what_it_holds(filled, empty, pictures, victim, tmp_path, name, hard):
    place = empty / name
    is_folder = name in {"segments", "encoders", "training"}
    if hard and is_folder:
        pytest.skip("there are no hard links to folders")
    filled.close()
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
    if hard:
        with closing(sqlite3.connect(victim / "mine.db")) as connection, connection:
            connection.execute("CREATE TABLE mine (content)")
        os.link(victim / "mine.db", place)
    else:
        place.symlink_to(victim if is_folder else victim / "catalog.db")
    before = content(victim)
    do_everything(empty, pictures, tmp_path)
    assert content(victim) == before


def test_links_among_its_files(filled, empty, pictures, victim, tmp_path):
    filled.close()
    with open_small(empty) as small:
        small.compact()
    (segment,) = (empty / "segments").glob("*.faiss")
    for path in (empty / "segments" / "basis.npz", segment.with_suffix(".rows.npy")):
        path.unlink(missing_ok=True)
        path.symlink_to(victim / "letter.txt")
    (empty / "segments" / f"{'0' * 16}.faiss").symlink_to(victim / "letter.txt")
    (empty / "segments" / f".{'0' * 16}.bounds.01234567.tmp").symlink_to(victim / "letter.txt")
    (empty / "encoders" / ("ab" * 32)).symlink_to(victim / ("ab" * 32))
    (empty / "training").mkdir()
    (empty / "training" / "state.json").symlink_to(victim / "state.json")
    before = content(victim)
    do_everything(empty, pictures, tmp_path)
    assert content(victim) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE segments SET name = '../../victim/0123456789abcdef'",
        "UPDATE encoders SET fingerprint = '../../victim'",
        "INSERT INTO encoders (fingerprint, dim, name, active, created_at, previous) "
        "VALUES ('../../victim/deep', 16, 'evil', 0, 0, 0)",
    ],
)
def test_names_that_lead_out(filled, empty, pictures, victim, tmp_path, statement):
    filled.close()
    with closing(sqlite3.connect(empty / "catalog.db")) as connection, connection:
        connection.execute(statement)
    before = content(victim)
    do_everything(empty, pictures, tmp_path)
    with suppress(ImgsimError), Collection.open(empty) as collection:
        collection.encoders.remove("evil")
    assert content(victim) == before


def test_an_encoder_is_described_in_its_own_folder(filled, empty, pictures, victim, tmp_path):
    model = write_projection(tmp_path / "other.onnx")
    report = filled.encoders.add(EncoderSource(str(model), "other"))
    described = Path(report.encoder.directory) / "encoder.json"
    told = described.read_text()
    described.unlink()
    described.symlink_to(victim / "letter.txt")
    before = content(victim)
    filled.repair()
    assert content(victim) == before
    assert not described.is_symlink()
    assert described.read_text() == told


def test_files_that_are_not_its_own_stay(filled, empty, pictures):
    strangers = [empty / "segments" / "notes.txt", empty / "encoders" / "notes"]
    strangers[0].write_text("mine")
    strangers[1].mkdir()
    filled.ingest([pictures])
    filled.compact()
    assert all(path.exists() for path in strangers)


def test_a_model_is_not_fed_with_other_files(empty, tmp_path, monkeypatch):
    """ONNX Runtime would look for weights where the process was started."""
    monkeypatch.chdir(tmp_path)
    np.ones(3072, np.float32).tofile("secret.bin")
    weights = onnx.TensorProto(name="w", data_type=1, dims=[3072], data_location=1)
    weights.external_data.add(key="location", value="secret.bin")
    image = helper.make_tensor_value_info("x", 1, ["n", 32, 32, 3])
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Add", ["f", "w"], ["y"])]
    output = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "g", [image], [output], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder,) = (empty / "encoders").iterdir()
    (folder / "encoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EncoderError, match="External data path"):
        Encoder(folder)


def test_a_model_of_any_size_is_not_read(empty):
    (folder,) = (empty / "encoders").iterdir()
    os.truncate(folder / "encoder.onnx", 3 << 30)  # no bytes on the disk
    with pytest.raises(EncoderError, match="over 2 GB"):
        Encoder(folder)
