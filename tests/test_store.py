"""Segments, their bounds and the catalog together, with vectors that compress."""

import os

import numpy as np
import pytest

from imgsim.catalog import Catalog
from imgsim.exact import distances
from imgsim.store import VectorStore
from imgsim.types import ImageRecord

DIM = 256


@pytest.fixture
def vectors():
    random = np.random.default_rng(0)
    rows = random.normal(size=(5_000, DIM)) * 0.9 ** np.arange(DIM) + 3
    rows[4_000:4_100] = rows[:100]
    return rows.astype(np.float32)


@pytest.fixture
def stored(tmp_path, vectors):
    """A catalog and a store with three segments, and the bounds that the writer makes."""
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.activate_encoder("encoder", DIM)
    (tmp_path / "segments").mkdir()
    store = VectorStore(tmp_path / "segments")
    for part in np.split(np.arange(5_000), [2_500, 4_900]):
        records = [ImageRecord(f"/{i}", 1, 2, b"", 3, 4) for i in part]
        catalog.commit_images(store.add(vectors[part]), records)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot)
    yield catalog, store
    catalog.close()


def answers(catalog, store, queries):
    """Return the answers and how many rows had bounds."""
    with catalog.snapshot() as snapshot:
        gallery = store.gallery(snapshot)
        found = [(ids.tolist(), d.tolist()) for ids, d in gallery.search(queries, 9)]
        return found, gallery.stats.bounded // len(queries)


def oracle(vectors, queries):
    ids = np.arange(1, len(vectors) + 1)
    found = []
    for query in queries:
        true = distances(query, vectors)
        order = np.lexsort((ids, true))[:9]
        found.append((ids[order].tolist(), true[order].tolist()))
    return found


def test_large_segments_have_bounds_and_small_ones_are_scanned(tmp_path, stored, vectors):
    queries = np.concatenate([vectors[:5], vectors[4_950:4_955] + np.float32(0.1)])
    found, bounded = answers(*stored, queries)
    assert found == oracle(vectors, queries)
    assert bounded == 4_900
    assert len(list((tmp_path / "segments").glob("*.bounds"))) == 2


@pytest.mark.parametrize("damage", ["cut", "removed", "no basis", "foreign basis"])
def test_bounds_are_derived_and_made_anew(tmp_path, stored, vectors, damage):
    catalog, store = stored
    queries = vectors[[3, 2_600, 4_050]]
    for path in (tmp_path / "segments").glob("*.bounds"):
        if damage == "cut":
            os.truncate(path, path.stat().st_size - 4)
        elif damage == "removed":
            path.unlink()
    basis = tmp_path / "segments" / "basis.npz"
    if damage == "no basis":
        basis.unlink()
    elif damage == "foreign basis":
        other = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, 30)))[0]
        np.savez(basis, mean=np.zeros(DIM), directions=other, near=10)
    assert answers(catalog, store, queries) == (oracle(vectors, queries), 0)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot)
    assert answers(catalog, store, queries) == (oracle(vectors, queries), 4_900)


def test_rows_of_replaced_images_are_never_found(stored, vectors):
    catalog, store = stored
    replaced = [ImageRecord(f"/{i}", 9, 9, b"", 3, 4) for i in range(20)]
    catalog.commit_images(store.add(vectors[:20] + np.float32(100)), replaced)
    (ids, found), *_ = answers(catalog, store, vectors[:1])[0]
    assert ids[0] == 4_001  # the duplicate of the first row
    assert found[0] == 0.0
    assert not set(ids) & set(range(1, 21))
