"""A fault before any effect on the disk: what was committed stays, the rest is as before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgsim import Collection
from tests import faults
from tests.conftest import make_collection
from tests.test_ingest import vectors


@pytest.fixture
def template(tmp_path, pictures):
    """A collection with eight images in eight segments, of which one was removed."""
    path = make_collection(tmp_path / "template")
    with Collection.open(path) as collection:
        for picture in sorted(pictures.iterdir())[:7]:
            collection.ingest([picture])
        collection.remove(sorted(pictures.iterdir())[:1])
    return path


@pytest.mark.parametrize(("mode", "ended"), [("kill", faults.KILLED), ("full", faults.REFUSED)])
def test_a_fault_before_each_effect(tmp_path, template, pictures, mode, ended):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    undisturbed = shutil.copytree(template, tmp_path / "undisturbed")
    with Collection.open(undisturbed) as collection:
        collection.ingest([pictures])
        expected = vectors(collection)
        ranking = neighbours(collection)
    command = [sys.executable, "-m", "tests.faults", template, pictures, scratch, mode]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    cases = [json.loads(line) for line in run.stdout.splitlines()]
    effects = {effect.split()[0] for _, effect, _ in cases}
    assert {"open", "fsync", "os.rename", "os.remove", "commit"} <= effects
    for path, effect, code in cases:
        assert code == ended or (mode == "full" and not faults.needs_space(effect) and not code)
        with Collection.open(path, create=False) as collection:
            assert collection.check() == [], effect
            stored = vectors(collection)
            assert stored.items() <= expected.items(), effect
            assert (len(stored) - 6) % 12 in {0, 6}, effect  # whole batches
            collection.ingest([pictures])
            assert vectors(collection) == expected, effect
            assert neighbours(collection) == ranking, effect
            names = {p.stem for p in (Path(path) / "segments").glob("*.faiss")}
            assert len(names) == collection.info().segments, effect


def neighbours(collection):
    """Return path, neighbours' paths and distances of every image, whatever the ids."""
    lists = collection.neighbours(3)
    return sorted((n.path, [(m.path, m.distance) for m in n.matches]) for n in lists)
