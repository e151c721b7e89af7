"""Too little room for what a command writes: the old state or the new one, and a line that says so.

benchmarks/space.py does the same with every amount of room.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from imgsim import RECIPES, Collection, EncoderSource, StoreError
from tests.conftest import file_limit
from tests.models import write_projection

SPACE = Path(__file__).parents[1] / "benchmarks" / "space.py"


def test_commands_with_too_little_room(tmp_path):
    table = tmp_path / "table.json"
    room = "--amounts", "49152"  # a catalog can be opened, and not much be written
    some = "ingest", "compact", "reencode", "encoder import", "check", "query", "remove"
    command = [sys.executable, SPACE, *room, "--json", table, "--only", *some]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr
    rows = json.loads(table.read_text())["commands"]
    assert sum(row["failed cleanly"] for row in rows) > 4
    assert sum(row["succeeded"] for row in rows) > 4
    if not any(row["limit of"] == "disk" for row in rows):
        pytest.skip("only root can mount a file system; limits of the size of files are tested")


@pytest.mark.parametrize(
    ("what", "name"),
    [
        *(("neighbours", f"n.{suffix}") for suffix in ("csv", "jsonl", "parquet", "npz")),
        *(("embeddings", f"e.{suffix}") for suffix in ("npz", "parquet", "pkl")),
        ("index", "i.faiss"),
    ],
)
@pytest.mark.parametrize("lacking", [1, 100])
def test_an_export_that_lacks_its_last_bytes(filled, tmp_path, what, name, lacking):
    export = {
        "neighbours": filled.export_neighbours,
        "embeddings": filled.export_embeddings,
        "index": filled.export_index,
    }[what]
    folder = tmp_path / "out"
    folder.mkdir()
    export(folder / name)
    size = (folder / name).stat().st_size
    (folder / name).write_bytes(b"before")
    with file_limit(size - lacking), pytest.raises(StoreError, match="File too large"):
        export(folder / name)
    assert os.listdir(folder) == [name]
    assert (folder / name).read_bytes() == b"before"


def test_a_model_that_fits_without_what_is_noted_in_it(filled, tmp_path):
    file = write_projection(tmp_path / "m.onnx")
    before = filled.encoders.list()
    with (
        file_limit(os.path.getsize(file)),
        pytest.raises(StoreError, match=r"encoder\.onnx: cannot"),
    ):
        filled.encoders.add(EncoderSource(file))
    assert filled.encoders.list() == before
    assert len(os.listdir(filled.path / "encoders")) == 1
    assert filled.encoders.add(EncoderSource(file)).encoder.dim == 5


def test_a_training_that_cannot_write_its_encoder(tmp_path, crops):
    settings = replace(RECIPES["plain"], image_size=16, epochs=1)
    with Collection.open(tmp_path / "c", create=True) as collection:
        with ExitStack() as limits:

            def limit(now):
                if now.stage == "export":
                    limits.enter_context(file_limit(0))

            with pytest.raises(StoreError, match=r"cannot be written: .*; `--resume` goes"):
                collection.train(crops[:16], settings, limit)
        assert collection.encoders.list() == []
        assert collection.train(crops[:16], resume=True).encoder.active
