import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from imgsim import (
    Collection,
    EncoderError,
    EncoderMismatch,
    EncoderMissing,
    EncoderSource,
)
from imgsim.options import BatchLimits
from tests import faults
from tests.conftest import interruptible, open_small
from tests.jobs.test_ingest import embeddings
from tests.models import write_projection
from tests.test_faults import neighbours, run_faults


@pytest.fixture
def both(filled, tmp_path):
    """A collection of thirty-six photographs that has another encoder, of 5 values, besides."""
    source = EncoderSource(write_projection(tmp_path / "other.onnx"), "other")
    assert not filled.encoders.add(source).encoder.active
    return filled


@pytest.fixture
def expected(tmp_path, pictures, both):
    """What a collection holds that never had another encoder."""
    with Collection.open(tmp_path / "fresh", create=True) as fresh:
        fresh.encoders.add(EncoderSource(str(tmp_path / "other.onnx"), "other"))
        fresh.ingest([pictures])
        return embeddings(fresh)


def same(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[path], expected[path]) for path in found
    )


def test_it_is_as_if_the_encoder_had_always_been_there(both, expected, crops):
    ids = {item.path: item.id for item in both.neighbours(1)}
    told = []
    report = both.encoders.reencode("other", lambda *now: told.append(now))
    assert (report.images, report.encoded, report.refused, report.switched) == (36, 36, (), True)
    assert told[-1] == (36, 36)
    assert same(embeddings(both), expected)
    assert {item.path: item.id for item in both.neighbours(1)} == ids
    assert both.info().dim == 5
    assert both.check() == []
    (result,) = both.query([crops[3]], 1)
    assert result.matches[0].distance == 0.0


def test_until_then_queries_use_the_former_vectors(both, pictures):
    before = neighbours(both)
    seen = []

    def look(*_):
        seen.append(neighbours(both) == before)

    both.encoders.reencode("other", look)
    assert seen == [True] * 36
    assert neighbours(both) != before


def test_once_more_does_nothing(both):
    both.encoders.reencode("other")
    report = both.encoders.reencode("other")
    assert (report.encoded, report.switched) == (0, True)


def test_back_without_encoding_until_compact(both):
    before = embeddings(both)
    (previous,) = (each.name for each in both.encoders.list() if each.active)
    both.encoders.reencode("other")
    both.encoders.use(previous)
    assert same(embeddings(both), before)
    both.encoders.use("other")
    assert both.compact(dry_run=True).dropped == 36
    assert both.compact().dropped == 36
    assert both.compact().dropped == 0
    assert {each.name: each.embeddings for each in both.encoders.list()} == {
        previous: 0,
        "other": 36,
    }
    with pytest.raises(EncoderMismatch, match="reencode"):
        both.encoders.use(previous)
    assert both.check() == []
    assert both.encoders.reencode(previous).encoded == 36
    assert same(embeddings(both), before)


def test_ingest_goes_on_meanwhile(both, expected, pictures):
    """An interrupted run, then new, changed and removed images, then the rest."""

    def interrupt(done, _):
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both.encoders.reencode("other", interrupt, BatchLimits(images=10))
    first, second, third, *_ = sorted(pictures.iterdir())
    shutil.copy(first, pictures / "new.jpg")
    shutil.copyfile(third, second)
    both.remove([third])
    third.unlink()
    assert both.ingest([pictures]).added == 1
    both.compact()  # it drops former vectors, not those to come
    report = both.encoders.reencode("other")
    assert (report.images, report.encoded) == (36, 36 - 23)
    with Collection.open(pictures.parent / "again", create=True) as fresh:
        fresh.encoders.add(EncoderSource(str(pictures.parent / "other.onnx")))
        fresh.ingest([pictures])
        assert same(embeddings(both), embeddings(fresh))
    assert both.check() == []


def test_what_cannot_be_read_keeps_the_former_encoder(both, expected, pictures):
    first, second, *_ = sorted(pictures.iterdir())
    before = embeddings(both)
    first.rename(pictures.parent / "away.jpg")
    second.write_bytes((pictures.parent / "away.jpg").read_bytes())
    report = both.encoders.reencode("other")
    assert [refusal.path for refusal in report.refused] == [str(first), str(second)]
    assert "other content" in report.refused[1].reason
    assert (report.encoded, report.switched) == (34, False)
    assert same(embeddings(both), before)
    both.ingest([second])
    both.prune()
    assert both.encoders.reencode("other").switched
    assert both.info().images == 35


def test_the_projection_is_fitted_to_the_new_embeddings(both, pictures, tmp_path):
    """An old one of the same dimension would be valid and of little use."""
    both = open_small(both.path)
    again = write_projection(tmp_path / "again.onnx", seed=1)
    both.encoders.add(EncoderSource(again, "again"))
    bases = []
    for name in ("other", "again"):
        both.encoders.reencode(name)
        bases.append((both.path / "segments" / "basis.npz").read_bytes())
    assert bases[0] != bases[1]
    both.remove([pictures])
    both.encoders.add(EncoderSource(write_projection(tmp_path / "third.onnx", seed=2)))
    assert not (both.path / "segments" / "basis.npz").exists()


def damage(collection, names):
    """Alter a byte in each of the segment files that are not among these."""
    for path in collection.path.glob("segments/*.faiss"):
        if path.name not in names:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)


def segment_files(collection):
    return {path.name for path in collection.path.glob("segments/*.faiss")}


def test_what_an_interrupted_run_left_is_damaged(both, expected):

    def interrupt(done, _):
        if done == 25:
            raise KeyboardInterrupt

    previous = segment_files(both)
    with pytest.raises(KeyboardInterrupt):
        both.encoders.reencode("other", interrupt, BatchLimits(images=10))
    damage(both, previous)
    assert len(both.check()) == 3
    assert both.encoders.reencode("other").encoded == 36
    assert same(embeddings(both), expected)
    assert both.check() == []


def test_damaged_former_vectors_do_not_take_over(both, expected):
    (previous,) = (each.name for each in both.encoders.list() if each.active)
    before = segment_files(both)
    both.encoders.reencode("other")
    damage(both, segment_files(both) - before)
    (found,) = both.check()
    with pytest.raises(EncoderMismatch, match="36 images have no embedding"):
        both.encoders.use(previous)
    assert same(embeddings(both), expected)
    assert os.path.basename(found.path) in before
    assert both.check() == []


def test_repair_drops_damaged_former_vectors(both, expected):
    before = segment_files(both)
    both.encoders.reencode("other")
    damage(both, segment_files(both) - before)
    report = both.repair()
    assert (report.dropped, report.encoded, report.forgotten) == (36, 0, ())
    assert both.check() == []
    assert same(embeddings(both), expected)


def test_an_unknown_encoder(both):
    with pytest.raises(EncoderMissing, match="nonsense"):
        both.encoders.reencode("nonsense")


@pytest.mark.parametrize(("mode", "ended"), [("kill", faults.KILLED), ("full", faults.REFUSED)])
def test_a_fault_before_each_effect(tmp_path, both, expected, pictures, mode, ended):
    before = embeddings(both)
    with open_small(both.path) as small:
        small.encoders.use(small.encoders.list()[0].name)  # which fits a projection
    both.close()
    (tmp_path / "scratch").mkdir()
    cases = run_faults(both.path, pictures, tmp_path / "scratch", mode, "reencode")
    if mode == "kill":
        assert sum(effect == "commit" for _, effect, _ in cases) > 2
        assert "os.remove basis.npz" in {effect for _, effect, _ in cases}
    for path, effect, code in cases:
        assert code == ended, effect
        with Collection.open(path) as collection:
            assert collection.check() == [], effect
            found = embeddings(collection)
            assert same(found, before) or same(found, expected), effect
            collection.encoders.reencode("other")
            collection.compact()
            assert same(embeddings(collection), expected), effect
            names = {p.stem for p in collection.path.glob("segments/*.faiss")}
            assert len(names) == collection.info().segments, effect


class TestRemove:
    def test_an_encoder_goes_with_its_vectors(self, both):
        (previous,) = (each.name for each in both.encoders.list() if each.active)
        with pytest.raises(EncoderError, match="in use"):
            both.encoders.remove(previous)
        both.encoders.reencode("other")
        both.encoders.remove(previous)
        assert [each.name for each in both.encoders.list()] == ["other"]
        assert len(os.listdir(both.path / "encoders")) == 1
        assert len(segment_files(both)) == 1
        assert both.check() == []
        assert len(embeddings(both)) == 36

    def test_a_folder_that_no_row_names_goes(self, both, pictures):
        """As a kill leaves it between the encoder's folder and its row."""
        orphan = both.path / "encoders" / ("0" * 64)
        orphan.mkdir()
        both.ingest([pictures])
        assert not orphan.exists()
        assert both.check() == []


class TestCommand:
    def test_reencode(self, imgsim, both, pictures):
        done = imgsim("-c", both.path, "reencode", "--encoder", "other")
        assert done.returncode == 0
        assert done.stderr.decode().splitlines()[-2:] == [
            "36 of 36 images encoded",
            "the encoder is other now",
        ]

    def test_remove(self, imgsim, both):
        assert imgsim("-c", both.path, "encoder", "remove", "other").returncode == 0
        gone = imgsim("-c", both.path, "encoder", "remove", "other")
        assert gone.returncode == 31

    def test_what_cannot_be_read(self, imgsim, both, pictures):
        sorted(pictures.iterdir())[0].unlink()
        done = imgsim("-c", both.path, "reencode", "--encoder", "other")
        assert done.returncode == 20
        assert b"1 images have no embedding by other" in done.stderr

    def test_ctrl_c(self, both, pictures):
        program = (
            "import os, signal, sys\n"
            "from imgsim.jobs.batch import Batch\n"
            "from imgsim.cli.main import main\n"
            "def due(self, items):\n"
            "    if items == 7:\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n"
            "    return False\n"
            "Batch.is_due = due\n"
            f"sys.argv = ['imgsim', '-c', {os.fspath(both.path)!r}, "
            "'reencode', '--encoder', 'other']\n"
            "main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=False,
            preexec_fn=interruptible,
        )
        assert done.returncode == 130, done.stderr
        assert b"run the same command again to go on" in done.stderr
        assert both.encoders.get("other").embeddings >= 7
        assert both.encoders.reencode("other").switched
