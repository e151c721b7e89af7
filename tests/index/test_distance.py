import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim.index.distance import checked_queries, distances


@st.composite
def galleries(draw):
    """Queries and rows with offsets, duplicates, constant dimensions, and of any scale."""
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
    return np.concatenate([rows[:3], random.normal(size=(2, d)).astype(np.float32)]), rows


@settings(max_examples=200, deadline=None)
@given(galleries(), st.data())
def test_a_rows_distance_does_not_depend_on_the_other_rows(gallery, data):
    queries, rows = gallery
    chosen = data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=20))
    if not len(rows):
        return
    together = distances(queries[0], rows)
    assert distances(queries[0], rows[chosen]).tolist() == together[chosen].tolist()
    assert distances(queries[0], np.asfortranarray(rows)).tolist() == together.tolist()
    pairs = np.repeat(queries[:1], len(chosen), axis=0)
    assert distances(pairs, rows[chosen]).tolist() == together[chosen].tolist()
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
    with pytest.raises(ValueError, match="queries must be"):
        checked_queries(queries, 3)
