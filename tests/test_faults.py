"""A fault before any effect on the disk: what was committed stays, the rest is as before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgsim import Collection
from imgsim.catalog.catalog import Catalog
from tests import faults
from tests.conftest import make_collection
from tests.jobs.test_ingest import embeddings


@pytest.fixture
def template(tmp_path, pictures):
    """A collection with ten images in ten segments, of which one was removed.

    Since then files were moved, copied, changed, broken and mended.
    """
    path = make_collection(tmp_path / "template")
    first, second, third, fourth, fifth, *others = sorted(pictures.iterdir())
    (pictures / "mended.jpg").write_text("x")
    with Collection.open(path) as collection:
        for picture in [first, second, third, fourth, fifth, *others[:5]]:
            collection.ingest([picture])
        collection.ingest([pictures / "mended.jpg"])
        collection.remove([first])
    second.rename(pictures / "z-moved.jpg")
    third.rename(second)
    shutil.copy(others[0], pictures / "y-copy.jpg")
    shutil.copyfile(others[-1], fourth)
    fifth.write_text("x")
    shutil.copy(others[1], pictures / "mended.jpg")
    return path


@pytest.fixture
def undisturbed(tmp_path, template, pictures, monkeypatch):
    """What the catalog holds after each commit of an ingest, and what an ingest ends with."""
    states = []
    commit = Catalog.commit_batch

    def recorded(catalog, *arguments):
        commit(catalog, *arguments)
        states.append(embeddings(collection))

    with Collection.open(shutil.copytree(template, tmp_path / "undisturbed")) as collection:
        states.append(embeddings(collection))
        with monkeypatch.context() as patched:
            patched.setattr(Catalog, "commit_batch", recorded)
            collection.ingest([pictures], faults.SETTINGS)
        assert len(states) > 3
        return states, neighbours(collection), collection.refused()


@pytest.mark.parametrize(("mode", "ended"), [("kill", faults.KILLED), ("full", faults.REFUSED)])
def test_a_fault_before_each_effect(tmp_path, template, pictures, undisturbed, mode, ended):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    states, ranking, refused = undisturbed
    cases = run_faults(template, pictures, scratch, mode, "ingest")
    effects = {effect.split()[0] for _, effect, _ in cases}
    harmless = {"os.remove", "commit"} if mode == "kill" else set()
    assert {"open", "fsync", "os.rename", *harmless} <= effects
    for path, effect, code in cases:
        assert code == ended, effect
        with Collection.open(path) as collection:
            assert collection.check() == [], effect
            assert embeddings(collection) in states, effect
            collection.ingest([pictures])
            assert embeddings(collection) == states[-1], effect
            assert neighbours(collection) == ranking, effect
            assert collection.refused() == refused, effect
            names = {p.stem for p in (Path(path) / "segments").glob("*.faiss")}
            assert len(names) == collection.info().segments, effect


def run_faults(*arguments):
    """Return the copy, the effect and the exit code of each fault."""
    command = [sys.executable, "-m", "tests.faults", *arguments]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def neighbours(collection):
    """Return path, neighbours' paths and distances of every image, whatever the ids."""
    lists = collection.neighbours(3)
    return sorted((n.path, [(m.path, m.distance) for m in n.matches]) for n in lists)
