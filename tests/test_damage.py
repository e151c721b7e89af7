"""Damage is an error that names the file, never another answer; and what a repair makes of it."""

import re
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from imgsim import Collection, CollectionDamaged
from tests.damage import KINDS, answers, harm, make, opened, trial
from tests.jobs.test_ingest import facts

SEEDS = range(3)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("damage"))
    with opened(path) as collection:
        assert collection.check() == []
        assert len(list((path / "segments").glob("*.bounds"))) == 4  # one is of another encoder
        assert collection.info().segments == 3
    return path


@pytest.fixture(scope="module")
def expected(sound):
    return answers(sound)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_answer_is_wrong(sound, expected, kind, seed):
    outcome = trial(sound, sound.parent / "copy", kind, np.random.default_rng(seed), expected)
    assert outcome.query in {"same", "error"}, outcome.detail
    assert outcome.check in {"sound", "damage", "error"}, outcome.detail
    if kind == "encoder":  # nothing can make that anew
        assert outcome.repair in {"damage", "error"}, outcome.detail
        assert outcome.after in {"same", "error"}, outcome.detail
    else:
        assert (outcome.repair, outcome.after in {"same", "fewer"}) == ("sound", True), (
            outcome.detail
        )


@pytest.mark.parametrize("at", range(0, 200, 13))
def test_every_part_of_a_row_is_verified(filled, empty, crops, at):
    """One altered bit of an embedding, or of the table beside it, is noticed where it is read."""
    for pattern in ("*.faiss", "*.rows.npy"):
        (path,) = (empty / "segments").glob(pattern)
        content = path.read_bytes()
        altered = bytearray(content)
        altered[len(content) - 1 - at] ^= 1 << at % 8
        path.write_bytes(altered)
        with pytest.raises(CollectionDamaged, match=path.name):
            filled.query(crops[:1], None)
        with pytest.raises(CollectionDamaged, match=path.name):
            list(filled.neighbours(1))
        path.write_bytes(content)
    assert len(filled.query(crops[:1], None)[0].matches) == 36


def damage_index(path):
    """Alter an entry of the index of paths, and nothing else."""
    content, size = bytearray(path.read_bytes()), 4_096
    for match in re.finditer(rb"astronaut-0", content):
        if content[match.start() // size * size] == 0x0A:  # a leaf of an index
            content[match.start()] ^= 1
    path.write_bytes(content)


def test_a_damaged_index_is_made_anew(filled, empty, crops, imgsim):
    before = filled.query(crops[:3], 5).results
    filled.close()
    damage_index(empty / "catalog.db")
    done = imgsim("-c", empty, "check")
    assert (done.returncode, b"missing from index" in done.stdout) == (14, True)
    done = imgsim("-c", empty, "check", "--repair")
    assert done.returncode == 0
    assert b"the indexes of the catalog were damaged, and are made anew" in done.stderr
    with Collection.open(empty) as collection:
        assert collection.query(crops[:3], 5).results == before
        assert collection.info().images == 36


@pytest.mark.parametrize("change", ["header", "cut", "empty", "text"])
def test_a_catalog_that_cannot_be_opened(filled, empty, pictures, imgsim, change):
    filled.ingest([pictures])
    before = filled.query(sorted(pictures.iterdir())[:3], 5).results
    filled.close()
    path = empty / "catalog.db"
    content = path.read_bytes()
    damaged = {
        "header": b"x" + content[1:],
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"no database",
    }[change]
    path.write_bytes(damaged)
    done = imgsim("-c", empty, "query", pictures)
    assert (done.returncode, done.stderr.count(b"\n")) == (14, 1)
    done = imgsim("-c", empty, "check", "--repair")
    assert done.returncode == 0, done.stderr
    assert b"the damaged one is catalog.db.damaged-1" in done.stderr
    assert (empty / "catalog.db.damaged-1").read_bytes() == damaged
    with Collection.open(empty) as collection:
        collection.ingest([pictures])
        assert collection.check() == []
        assert collection.info().images == 36
        again = collection.query(sorted(pictures.iterdir())[:3], 5).results
        assert [[m.path for m in r.matches] for r in again] == [
            [m.path for m in r.matches] for r in before
        ]


def test_a_rebuilt_catalog_has_all_that_can_be_read(filled, empty, pictures):
    """And an id is not used again, although its image is gone."""
    before = facts(filled)
    last = max(filled.images(), key=lambda image: image.id)
    filled.remove([last.path])
    filled.close()
    path = empty / "catalog.db"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert "the 35 images that could be read" in Collection.mend(empty)
    with Collection.open(empty) as collection:
        assert collection.check() == []
        assert collection.ingest([pictures]).added == 1
        after = facts(collection)
    assert after.pop(last.path)[0] == last.id + 1
    assert after.items() <= before.items()


def test_names_that_are_not_utf8(filled, empty, pictures, imgsim):
    """What SQLite and ONNX Runtime say of them cannot be decoded."""
    filled.close()
    path = empty / "catalog.db"
    path.write_bytes(
        path.read_bytes().replace(b"CREATE TABLE refused", b"CREATE TABLE ref\xed\xed\xed\xed")
    )
    (model,) = empty.glob("encoders/*/encoder.onnx")
    content = model.read_bytes()
    for code, damaged in ((14, content), (32, content[:-4] + 4 * b"\xa0")):
        model.write_bytes(damaged)
        done = imgsim("-c", empty, "query", *sorted(pictures.iterdir())[:1])
        assert (done.returncode, done.stderr.count(b"\n")) == (code, 1)
        assert imgsim("-c", empty, "check", "--repair").returncode == {14: 0, 32: 14}[code]


def test_a_sound_catalog_stays_as_it_is(filled, empty):
    filled.close()
    before = (empty / "catalog.db").read_bytes()
    assert Collection.mend(empty) == ""
    assert (empty / "catalog.db").read_bytes() == before


def test_a_damaged_list_of_segments_costs_no_file(filled, empty, pictures):
    """What the list does not name would be swept."""
    filled.close()
    files = sorted((empty / "segments").iterdir())
    with closing(sqlite3.connect(empty / "catalog.db")) as connection:
        connection.execute("UPDATE segments SET name = '0123456789abcdef'")
        connection.commit()
    with Collection.open(empty) as collection:
        for write in (lambda: collection.ingest([pictures]), collection.compact):
            with pytest.raises(CollectionDamaged, match="encoders and segments as stored"):
                write()
    assert sorted((empty / "segments").iterdir()) == files


def test_harm_alters_files(tmp_path):
    """Or the tests above would prove nothing."""
    path, changed = tmp_path / "file", 0
    for seed in range(50):
        content = np.random.default_rng(seed).bytes(1_000)
        path.write_bytes(content)
        harm(path, np.random.default_rng(seed))
        changed += path.read_bytes() != content
    assert changed > 40
