import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from imgsim import Collection
from imgsim.catalog.judgements import in_order
from imgsim.catalog.judgements import judged as judged_pairs
from imgsim.findings import LearntRadius
from tests.conftest import alter

LEARNT = LearntRadius(0.25, 0.001, 0.9, 400, 1_000, 1_796_000_000)
PAIR = in_order(b"b" * 32, b"a" * 32)


@pytest.fixture
def judged(filled):
    catalog = filled._directory.catalog
    with catalog.snapshot() as snapshot:
        encoder = snapshot.encoder()
    catalog.commit_radius(encoder, replace(LEARNT, radius=0.5))
    catalog.commit_radius(encoder, LEARNT)
    assert catalog.commit_judged([PAIR, PAIR]) == 1
    return filled


def known(collection):
    with collection._directory.catalog.snapshot() as snapshot:
        return snapshot.radius(), judged_pairs(snapshot.connection)


def test_they_stay(judged):
    path = judged.path
    judged.close()
    with Collection.open(path) as again:
        assert known(again) == (LEARNT, {PAIR})
        assert again.check() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE radii SET radius = 9.5",
        "UPDATE radii SET radius = 'far'",
        "UPDATE radii SET fingerprint = x'00'",
        "UPDATE radii SET checksum = checksum + 1",
    ],
)
def test_a_radius_that_is_not_what_was_learnt_is_none(judged, statement):
    alter(judged.path, statement)
    assert known(judged) == (None, {PAIR})
    (damage,) = judged.check()
    assert damage.expected == "distances of duplicates as stored"
    judged.repair()
    assert judged.check() == []
    assert known(judged) == (None, {PAIR})


@pytest.mark.parametrize("value", ["'text'", "x'00'", "zeroblob(32)"])
def test_a_pair_that_is_none_is_dropped(judged, value):
    column = "second" if value.startswith("zero") else "first"
    alter(judged.path, f"UPDATE judged SET {column} = {value}")
    assert known(judged) == (LEARNT, set())
    assert len(judged.check()) == 1
    judged.repair()
    assert judged.check() == []


def test_a_catalog_that_is_made_anew_has_them(judged):
    """Its encoders and segments come from the files, and get other rows."""
    path = judged.path
    judged.close()
    catalog = path / "catalog.db"
    with closing(sqlite3.connect(catalog)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'segments'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with catalog.open("rb+") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert "a new one" in Collection.mend(path)
    with Collection.open(path) as mended:
        assert known(mended) == (LEARNT, {PAIR})
        assert mended.check() == []


def test_the_radius_goes_with_its_encoder(judged):
    catalog = judged._directory.catalog
    other = catalog.add_encoder("0" * 64, 4, "other")
    catalog.commit_radius(other, LEARNT)
    catalog.forget_encoder(other)
    with closing(sqlite3.connect(judged.path / "catalog.db")) as connection:
        assert connection.execute("SELECT count(*) FROM radii").fetchone() == (1,)
