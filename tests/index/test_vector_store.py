"""Segments, their bounds and the catalog together, with vectors that compress."""

import os

import numpy as np
import pytest

from imgsim.catalog.catalog import Catalog
from imgsim.errors import CollectionDamaged, StoreError
from imgsim.index.distance import distances
from imgsim.index.projection import fit_projection, write_projection_file
from imgsim.index.vector_store import VectorStore
from imgsim.options import SearchFilter
from imgsim.records import ImageRecord

DIM = 256


@pytest.fixture
def embeddings():
    random = np.random.default_rng(0)
    rows = random.normal(size=(5_000, DIM)) * 0.9 ** np.arange(DIM) + 3
    rows[4_000:4_100] = rows[:100]
    return rows.astype(np.float32)


@pytest.fixture
def stored(tmp_path, embeddings):
    """A catalog and a store with three segments, and the bounds that the writer makes."""
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.add_encoder("encoder", DIM)
    (tmp_path / "segments").mkdir()
    store = VectorStore(tmp_path / "segments")
    for part in np.split(np.arange(5_000), [2_500, 4_900]):
        records = [ImageRecord(f"/{i % 10}/{i}", 1, 2, b"", 3, 4) for i in part]
        catalog.commit_batch(store.add(embeddings[part]), records)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot)
    yield catalog, store
    catalog.close()


def answers(catalog, store, queries, within=None, k=9):
    """Return the answers and how many rows had bounds."""
    with catalog.snapshot() as snapshot:
        gallery = store.gallery(snapshot, within)
        found = [(ids.tolist(), d.tolist()) for ids, d in gallery.search(queries, k)]
        return found, gallery.stats.bounded // len(queries)


def oracle(embeddings, queries, admitted=slice(None), radius=np.inf, k=9):
    ids = np.arange(1, len(embeddings) + 1)[admitted]
    found = []
    for query in queries:
        true = distances(query, embeddings[admitted])
        order = np.lexsort((ids, true))
        order = order[true[order] <= radius][:k]
        found.append((ids[order].tolist(), true[order].tolist()))
    return found


def test_large_segments_have_bounds_and_small_ones_are_scanned(tmp_path, stored, embeddings):
    queries = np.concatenate([embeddings[:5], embeddings[4_950:4_955] + np.float32(0.1)])
    found, bounded = answers(*stored, queries)
    assert found == oracle(embeddings, queries)
    assert bounded == 4_900
    assert len(list((tmp_path / "segments").glob("*.bounds"))) == 2


@pytest.mark.parametrize("damage", ["cut", "removed", "no basis", "foreign basis"])
def test_bounds_are_derived_and_made_anew(tmp_path, stored, embeddings, damage):
    catalog, store = stored
    queries = embeddings[[3, 2_600, 4_050]]
    for path in (tmp_path / "segments").glob("*.bounds"):
        if damage == "cut":
            os.truncate(path, path.stat().st_size - 4)
        elif damage == "removed":
            path.unlink()
    projection = tmp_path / "segments" / "basis.npz"
    if damage == "no basis":
        projection.unlink()
    elif damage == "foreign basis":
        other = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, 30)))[0]
        np.savez(projection, mean=np.zeros(DIM), directions=other, near=8)
    assert answers(catalog, store, queries) == (oracle(embeddings, queries), 0)
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot)
    assert answers(catalog, store, queries) == (oracle(embeddings, queries), 4_900)


def test_rows_of_replaced_images_are_never_found(stored, embeddings):
    catalog, store = stored
    replaced = [ImageRecord(f"/{i % 10}/{i}", 9, 9, b"", 3, 4) for i in range(20)]
    catalog.commit_batch(store.add(embeddings[:20] + np.float32(100)), replaced)
    (ids, found), *_ = answers(catalog, store, embeddings[:1])[0]
    assert ids[0] == 4_001  # the duplicate of the first row
    assert found[0] == 0.0
    assert not set(ids) & set(range(1, 21))


NUMBERS = np.arange(5_000)


@pytest.mark.parametrize(
    ("within", "admitted"),
    [
        (SearchFilter(under=("/3",)), NUMBERS % 10 == 3),
        (SearchFilter(under=("/3/", "/./4")), np.isin(NUMBERS % 10, [3, 4])),
        (SearchFilter(not_under=("/3",)), NUMBERS % 10 != 3),
        (SearchFilter(under=("/",), not_under=("/1", "/2")), ~np.isin(NUMBERS % 10, [1, 2])),
        (SearchFilter(under=("/3/33",)), NUMBERS == 33),
        (SearchFilter(under=("/3/3",)), NUMBERS == 3),
        (SearchFilter(under=("/33",)), NUMBERS < 0),
    ],
)
def test_a_search_can_be_kept_to_folders(stored, embeddings, within, admitted):
    queries = embeddings[[3, 2_600, 4_050]]
    assert answers(*stored, queries, within)[0] == oracle(embeddings, queries, admitted)
    assert answers(*stored, queries, within, k=None)[0] == oracle(
        embeddings, queries, admitted, k=None
    )


def test_a_radius_is_inclusive(stored, embeddings):
    queries = embeddings[[3, 4_950]]
    for radius in (0.0, *distances(queries[0], embeddings[[17, 2_000]]).tolist()):
        for k in (2, None):
            found, _ = answers(*stored, queries, SearchFilter(radius), k)
            assert found == oracle(embeddings, queries, radius=radius, k=k)


@pytest.mark.parametrize("radius", [-1.0, float("nan")])
def test_a_radius_that_makes_no_sense(radius):
    with pytest.raises(ValueError, match="radius"):
        SearchFilter(radius)


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(stored, embeddings, k):
    with pytest.raises(StoreError):
        answers(*stored, embeddings[:1], k=k)


@pytest.mark.parametrize("what", ["flip", "cut", "text"])
@pytest.mark.parametrize("name", ["*.bounds", "basis.npz"])
def test_altered_bounds_are_damage(tmp_path, stored, name, what):
    catalog, store = stored
    with catalog.snapshot() as snapshot:
        assert list(store.damages(snapshot)) == []
        path = next((tmp_path / "segments").glob(name))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 64
        path.write_bytes({"flip": content, "cut": content[:-100], "text": b"text"}[what])
        assert str(path) in {damage.path for damage in store.damages(snapshot)}
        assert store.remove_damaged_bounds(snapshot.segments()) >= 1
        store.build_bounds(snapshot)
        assert path.exists()
        assert list(store.damages(snapshot)) == []


def test_bounds_under_a_lost_or_another_basis_are_no_damage(tmp_path, stored, embeddings):
    """A switch to another encoder leaves them for a while, or for good if the disk is full."""
    catalog, store = stored
    projection = tmp_path / "segments" / "basis.npz"
    old = projection.read_bytes()
    with catalog.snapshot() as snapshot:
        store.forget_basis()
        assert list(store.damages(snapshot)) == []
        write_projection_file(projection, fit_projection(embeddings[:2_100], 2_100))
        assert projection.read_bytes() != old
        assert list(store.damages(snapshot)) == []
        store.build_bounds(snapshot)
        assert list(store.damages(snapshot)) == []
    assert answers(catalog, store, embeddings[:2])[1] > 0


def test_a_segment_that_is_cut_while_it_is_searched(tmp_path, stored, embeddings):
    catalog, store = stored
    with catalog.snapshot() as snapshot:
        gallery = store.gallery(snapshot)
        for path in (tmp_path / "segments").glob("*.faiss"):
            os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(CollectionDamaged):
            gallery.search(embeddings[4_000:4_100], 3)


def test_a_collection_that_has_grown_gets_another_basis(tmp_path):
    """The first vectors may tell little of those to come."""
    random = np.random.default_rng(0)
    first = random.normal(size=(2_100, DIM)).astype(np.float32)  # these do not compress
    later = (random.normal(size=(8 * 2_100, DIM)) * 0.9 ** np.arange(DIM)).astype(np.float32)
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.add_encoder("encoder", DIM)
    (tmp_path / "segments").mkdir()
    store = VectorStore(tmp_path / "segments")
    bounded = []
    for number, part in enumerate([first, later[:8_000], later[8_000:]]):
        records = [ImageRecord(f"/{number}/{i}", 1, 2, b"", 3, 4) for i in range(len(part))]
        catalog.commit_batch(store.add(part), records)
        with catalog.snapshot() as snapshot:
            store.build_bounds(snapshot)
        bounded.append(answers(catalog, store, later[:2])[1])
    assert bounded == [0, 0, 9 * 2_100]
    embeddings = np.concatenate([first, later])
    assert answers(catalog, store, embeddings[::4_000])[0] == oracle(
        embeddings, embeddings[::4_000]
    )
    catalog.close()
