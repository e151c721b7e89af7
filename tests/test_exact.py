import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim.errors import StoreError
from imgsim.exact import checked_queries, distances, scan


def oracle(query, ids, rows, k):
    """Rank by math.fsum-free float64 distances with Python's own sort."""
    found = sorted(zip(distances(query, rows).tolist(), ids.tolist(), strict=True))
    return found[:k]


@st.composite
def galleries(draw):
    """Rows with offsets, near-duplicates, ties and constant dimensions, cut into blocks."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, d = draw(st.integers(0, 60)), draw(st.integers(1, 40))
    rows = random.normal(size=(n, d))
    rows *= draw(st.sampled_from([1e-42, 1e-6, 1.0, 1e6, 1e30]))
    rows += draw(st.sampled_from([0.0, 5.0, 50.0, 1e4]))
    rows = rows.astype(np.float32)
    if n and draw(st.booleans()):
        rows = rows[random.integers(0, max(1, n // 3), n)]
    if draw(st.booleans()):
        rows[:, 0] = 1
    ids = random.permutation(10 * n)[:n].astype(np.int64)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    queries = np.concatenate([rows[:3], random.normal(size=(2, d)).astype(np.float32)])
    return queries, ids, rows, cuts


@settings(max_examples=200, deadline=None)
@given(galleries(), st.integers(1, 70))
def test_search_equals_a_sort_of_all_distances(gallery, k):
    queries, ids, rows, cuts = gallery
    blocks = list(zip(np.split(ids, cuts), np.split(rows, cuts), strict=True))
    for query, (found_ids, found) in zip(queries, scan(queries, blocks, k), strict=True):
        assert list(zip(found.tolist(), found_ids.tolist(), strict=True)) == oracle(
            query, ids, rows, k
        )
        assert found.dtype == np.float64
        assert found_ids.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(galleries(), st.data())
def test_a_rows_distance_does_not_depend_on_the_other_rows(gallery, data):
    queries, _, rows, _ = gallery
    chosen = data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=20))
    if not len(rows):
        return
    together = distances(queries[0], rows)
    assert distances(queries[0], rows[chosen]).tolist() == together[chosen].tolist()
    assert distances(queries[0], np.asfortranarray(rows)).tolist() == together.tolist()
    for i in chosen:
        assert distances(queries[0], rows[i : i + 1])[0] == together[i]
        assert distances(rows[i], rows[i : i + 1])[0] == 0.0


@pytest.mark.parametrize("d", [1, 7, 128, 129, 1024, 4096, 16_384])
def test_independence_at_every_width(d):
    rows = (np.random.default_rng(d).normal(size=(200, d)) + 5).astype(np.float32)
    together = distances(rows[0], rows)
    assert [distances(rows[0], rows[i : i + 1])[0] for i in range(200)] == together.tolist()
    assert distances(rows[0], rows[::-1])[::-1].tolist() == together.tolist()


def test_distances_are_those_of_the_definition():
    rows = np.array([[3, 4], [0, 0], [1e-30, 0]], np.float32)
    assert distances(np.zeros(2, np.float32), rows).tolist() == pytest.approx([5, 0, 1e-30])


def test_huge_values_do_not_overflow():
    rows = np.full((2, 4), 3e38, np.float32)
    rows[1] *= -1
    assert np.isfinite(distances(rows[0], rows)).all()


def test_ties_go_to_the_least_id_even_across_blocks():
    row = np.ones((1, 3), np.float32)
    blocks = [(np.array([i]), row) for i in (9, 4, 7, 1)]
    ((ids, found),) = scan(row, blocks, 3)
    assert ids.tolist() == [1, 4, 7]
    assert found.tolist() == [0, 0, 0]


def test_k_larger_than_the_gallery_and_an_empty_one():
    row = np.ones((1, 3), np.float32)
    ((ids, _),) = scan(row, [(np.array([5]), row)], 10)
    assert ids.tolist() == [5]
    ((ids, found),) = scan(row, [], 10)
    assert ids.shape == found.shape == (0,)


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k):
    with pytest.raises(StoreError):
        scan(np.ones((1, 3), np.float32), [], k)


@pytest.mark.parametrize(
    "queries",
    [
        np.ones((1, 3)),
        np.ones((1, 4), np.float32),
        np.ones(3, np.float32),
        np.array([[1, np.nan, 1]], np.float32),
        np.array([[1, np.inf, 1]], np.float32),
    ],
)
def test_unfit_queries_are_refused(queries):
    with pytest.raises(StoreError):
        checked_queries(queries, 3)
