"""What places answer, put together; here they are galleries of this process."""

import numpy as np
import pytest

from imgsim.cluster import gallery
from imgsim.cluster.shards import Found
from imgsim.index.distance import distances
from imgsim.index.vector_store import VectorStore
from imgsim.records import SegmentRows

DIM = 6


@pytest.fixture
def rows():
    """Embeddings of which very many are as far from each other as others."""
    return np.random.default_rng(0).integers(0, 3, (700, DIM)).astype(np.float32)


def no_ids(_):
    raise AssertionError("the table has them")


@pytest.fixture
def places(tmp_path, rows):
    """Galleries of a part each, of which two have less than a few, and one nothing that counts."""
    store = VectorStore(tmp_path)
    found = []
    for part in np.split(np.arange(len(rows)), [400, 403, 405, 690]):
        excluded = np.full(2, 255, np.uint8) if part[0] == 690 else np.empty(0, np.uint8)
        segment = store.add(part + 1, rows[part])
        found.append(store.gallery([SegmentRows(segment, excluded)], DIM, np.inf, no_ids))
    yield found
    for each in found:
        each.close()


@pytest.mark.parametrize("k", [1, 3, 20, 800, None])
@pytest.mark.parametrize("some", [2, 8])
@pytest.mark.parametrize(("count", "rounds"), [(300, 2), (160, 2), (95, 0), (1, 1), (0, 0)])
def test_the_answers_are_those_of_one_gallery(rows, places, monkeypatch, k, some, count, rounds):
    """To the last rank, with ties, however many rounds it takes."""
    monkeypatch.setattr(gallery, "_SHARE", 32)
    monkeypatch.setattr(gallery, "_SOME", some)
    rounds = rounds or (2 if count and some == 2 else min(count, 1))  # 95 are enough for two places
    asked = []

    def ask(questions):
        asked.append([len(each.queries) for _, each in questions])
        return [Found.of(place.search(*each)) for place, each in questions]

    queries = rows[:count].copy()
    queries[::2] += np.float32(0.5)
    nearest, stats = gallery._searched(queries, k, places, ask)
    assert len(asked) == (rounds if k else min(rounds, 1))
    assert stats.queries == count
    assert sum(map(sum, asked)) == len(places) * count
    for query, (ids, found) in zip(queries, nearest, strict=True):
        true = distances(query, rows[:690])
        order = np.lexsort((np.arange(690), true))[:k]
        assert ids.tolist() == (order + 1).tolist()
        assert found.tolist() == true[order].tolist()


def test_what_is_too_far_is_not_sent_again(rows, places):
    """A place returns what may be among the nearest of all, and no more."""
    sent = []

    def ask(questions):
        found = [Found.of(place.search(*each)) for place, each in questions]
        sent.append(sum(len(each.ids) for each in found))
        return found

    gallery._searched(rows[:300], 10, places[:1] + places[3:4], ask)
    assert sent[0] == 300 * 10
    assert sent[1] < sent[0]


def test_nobody_has_anything():
    nearest, stats = gallery._searched(np.zeros((3, DIM), np.float32), 2, [], lambda asked: [])
    assert [len(ids) for ids, _ in nearest] == [0, 0, 0]
    assert stats.queries == 3
