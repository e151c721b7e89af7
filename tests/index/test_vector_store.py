"""Segments, their bounds and the catalog together, with vectors that compress."""

import os
from contextlib import closing

import numpy as np
import pytest

from imgsim.catalog.catalog import Catalog
from imgsim.errors import CollectionDamaged
from imgsim.index.distance import distances
from imgsim.index.projection import fit_projection, read_projection, write_projection_file
from imgsim.index.vector_store import VectorStore
from imgsim.options import SearchFilter, checked_k
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
        images = {int(i) + 1: ImageRecord(f"/{i % 10}/{i}", 1, 2, b"", 3, 4) for i in part}
        catalog.commit_batch(store.add(part + 1, embeddings[part]), images)
    build_bounds(catalog, store)
    yield catalog, store
    catalog.close()


def build_bounds(catalog, store):
    with catalog.snapshot() as snapshot:
        store.build_bounds(snapshot.segments(), snapshot.segment_ids)


def damages(snapshot, store):
    return list(store.damages(snapshot.segments(), (), snapshot.segment_ids))


def answers(catalog, store, queries, within=None, k=9):
    """Return the answers and how many rows had bounds."""
    with catalog.snapshot() as snapshot, gallery_of(snapshot, store, within) as gallery:
        answer = gallery.search(queries, k)
        found = [(ids.tolist(), d.tolist()) for ids, d in answer.nearest]
        return found, answer.stats.bounded // len(queries)


def gallery_of(snapshot, store, within=None):
    radius = within.radius if within else np.inf
    rows = snapshot.segment_rows(within)
    return closing(store.gallery(rows, DIM, radius, snapshot.segment_ids))


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
    build_bounds(catalog, store)
    assert answers(catalog, store, queries) == (oracle(embeddings, queries), 4_900)


def test_rows_of_replaced_images_are_never_found(stored, embeddings):
    catalog, store = stored
    replaced = {5_001 + i: ImageRecord(f"/{i % 10}/{i}", 9, 9, b"", 3, 4) for i in range(20)}
    far = embeddings[:20] + np.float32(100)
    catalog.commit_batch(store.add(np.array(list(replaced)), far), replaced)
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
def test_k_must_be_positive(k):
    with pytest.raises(ValueError, match="at least 1"):
        checked_k(k)


@pytest.mark.parametrize("what", ["flip", "cut", "text"])
@pytest.mark.parametrize("name", ["*.bounds", "basis.npz"])
def test_altered_bounds_are_damage(tmp_path, stored, name, what):
    catalog, store = stored
    with catalog.snapshot() as snapshot:
        assert damages(snapshot, store) == []
        path = next((tmp_path / "segments").glob(name))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 64
        path.write_bytes({"flip": content, "cut": content[:-100], "text": b"text"}[what])
        assert str(path) in {damage.path for damage in damages(snapshot, store)}
        assert store.remove_damaged_bounds(snapshot.segments()) >= 1
        store.build_bounds(snapshot.segments(), snapshot.segment_ids)
        assert path.exists()
        assert damages(snapshot, store) == []


def test_bounds_under_a_lost_or_another_basis_are_no_damage(tmp_path, stored, embeddings):
    """A switch to another encoder leaves them for a while, or for good if the disk is full."""
    catalog, store = stored
    projection = tmp_path / "segments" / "basis.npz"
    old = projection.read_bytes()
    with catalog.snapshot() as snapshot:
        store.forget_projection()
        assert damages(snapshot, store) == []
        write_projection_file(projection, fit_projection(embeddings[:2_100], 2_100))
        assert projection.read_bytes() != old
        assert damages(snapshot, store) == []
        store.build_bounds(snapshot.segments(), snapshot.segment_ids)
        assert damages(snapshot, store) == []
    assert answers(catalog, store, embeddings[:2])[1] > 0


def test_a_segment_that_is_cut_while_it_is_searched(tmp_path, stored, embeddings):
    catalog, store = stored
    with catalog.snapshot() as snapshot, gallery_of(snapshot, store) as gallery:
        for path in (tmp_path / "segments").glob("*.faiss"):
            os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(CollectionDamaged):
            gallery.search(embeddings[4_000:4_100], 3)


def test_a_collection_that_has_grown_gets_another_basis(tmp_path):
    """The first vectors may tell little of those to come."""
    random = np.random.default_rng(0)
    first = (random.normal(size=(2_100, DIM)) * 0.9 ** np.arange(DIM)[::-1]).astype(np.float32)
    later = (random.normal(size=(8 * 2_100, DIM)) * 0.9 ** np.arange(DIM)).astype(np.float32)
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.add_encoder("encoder", DIM)
    (tmp_path / "segments").mkdir()
    store = VectorStore(tmp_path / "segments")
    bases = []
    parts = [first, later[:8_000], later[8_000:]]
    for start, part in zip(np.cumsum([1, 2_100, 8_000]), parts, strict=True):
        ids = start + np.arange(len(part))
        images = {int(i): ImageRecord(f"/{i}", 1, 2, b"", 3, 4) for i in ids}
        catalog.commit_batch(store.add(ids, part), images)
        build_bounds(catalog, store)
        (path,) = (tmp_path / "segments").glob("*.npz")
        bases.append(read_projection(path, DIM))
        assert answers(catalog, store, later[:2])[1] == start + len(part) - 1
    assert bases[0].fingerprint == bases[1].fingerprint
    assert bases[2].fingerprint != bases[0].fingerprint
    embeddings = np.concatenate([first, later])
    assert answers(catalog, store, embeddings[::4_000])[0] == oracle(
        embeddings, embeddings[::4_000]
    )
    catalog.close()


@pytest.mark.parametrize("damage", ["removed", "cut", "text", "of another length"])
def test_the_table_of_rows_is_derived_and_made_anew(tmp_path, stored, embeddings, damage):
    """Without their file the catalog is asked, and the answers are the same."""
    catalog, store = stored
    catalog.forget([5, 4_001], (), ())
    queries = embeddings[[3, 2_600, 4_050]]
    before = answers(catalog, store, queries)
    path = max((tmp_path / "segments").glob("*.rows.npy"), key=os.path.getsize)
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "of another length":
        np.save(path, np.arange(7))
    else:
        path.write_bytes({"cut": content[:-8], "text": b"text"}[damage])
    assert answers(catalog, store, queries) == before
    with catalog.snapshot() as snapshot:
        assert bool(damages(snapshot, store)) == (damage != "removed")
        store.build_tables(snapshot.segments(), snapshot.segment_ids)
        assert damages(snapshot, store) == []
    assert np.load(path).shape == (2_500,)
    assert answers(catalog, store, queries) == before


def test_altered_ids_are_damage(tmp_path, stored):
    catalog, store = stored
    catalog.forget([5], (), ())
    path = max((tmp_path / "segments").glob("*.rows.npy"), key=os.path.getsize)
    table = np.load(path)
    for row in (4, 7):  # row 4 is no image's any more
        altered = table.copy()
        altered["id"][row] += 1_000
        np.save(path, altered)
        with catalog.snapshot() as snapshot:
            assert [d.path for d in damages(snapshot, store)] == [str(path)]
    with catalog.snapshot() as snapshot:
        store.renew_tables(snapshot.segments(), snapshot.segment_ids)
        assert damages(snapshot, store) == []
