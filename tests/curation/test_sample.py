import numpy as np
import pytest

from imgsim import Collection, IngestSettings, SearchFilter
from imgsim.curation.rows import BLOCK, Rows
from imgsim.curation.sample import Cover
from imgsim.index.distance import distances
from tests.conftest import make_collection


def greedy(rows, count):
    """Return picks and radii by the plain method, in float64."""
    mean = rows.astype(np.float64).mean(axis=0)
    pick, nearest = int(distances(mean, rows).argmin()), np.full(len(rows), np.inf)
    found = []
    for _ in range(count):
        nearest = np.minimum(nearest, distances(rows[pick], rows))
        found.append((pick, float(nearest.max())))
        pick = int(nearest.argmax())
    return found


def stored(collection):
    images = sorted(collection.images(), key=lambda image: image.path)
    paths = [image.path for image in images]
    return paths, collection.embed(paths)


def test_picks_are_those_of_the_plain_method(filled):
    paths, rows = stored(filled)
    told = []
    sample = filled.curation.sample(9, on_progress=lambda *now: told.append(now))
    expected = greedy(rows, 9)
    assert [(pick.path, pick.radius) for pick in sample.picks] == [
        (paths[row], radius) for row, radius in expected
    ]
    assert (sample.images, sample.radius) == (36, expected[-1][1])
    assert told == [(done, 9) for done in range(1, 10)]
    radii = [pick.radius for pick in sample.picks]
    assert radii == sorted(radii, reverse=True)


@pytest.mark.parametrize("move", [(0, 1), (1e4, 1), (0, 1e-22), (0, 1e20), (0, 0)])
def test_cover_is_exact_whatever_the_values(move):
    """With an offset, tiny and huge values, and all the same."""
    random = np.random.default_rng(1)
    rows = (move[0] + move[1] * random.normal(size=(BLOCK + 300, 12))).astype(np.float32)
    rows[7] = rows[BLOCK + 3]
    cover, nearest = Cover(Rows(None, np.arange(len(rows)), rows)), np.full(len(rows), np.inf)
    for pick in (0, 7, 4_000, BLOCK + 3, BLOCK + 299):
        cover.add(pick)
        nearest = np.minimum(nearest, distances(rows[pick], rows))
        assert np.array_equal(cover.distances, nearest)


def test_the_order_of_ingest_does_not_matter(filled, pictures, tmp_path):
    paths = sorted(map(str, pictures.iterdir()))
    with Collection.open(make_collection(tmp_path / "other.imgsim")) as other:
        for path in paths[::-1]:
            other.ingest([path], IngestSettings())
        for typical in (False, True):
            mine, theirs = (
                [
                    (pick.path, pick.radius)
                    for pick in each.curation.sample(7, typical=typical).picks
                ]
                for each in (filled, other)
            )
            assert mine == theirs
        mine, theirs = (
            [
                [member.path for member in group.members]
                for group in each.curation.clusters(4).clusters
            ]
            for each in (filled, other)
        )
        assert mine == theirs
        mine, theirs = (
            [o.path for o in each.curation.outliers().outliers] for each in (filled, other)
        )
        assert mine == theirs


def test_copies_are_picked_once_and_folders_restrict(filled, pictures, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in sorted(pictures.iterdir())[:3]:
        (copies / path.name).write_bytes(path.read_bytes())
    filled.ingest([copies])
    everything = filled.curation.sample(1_000)
    assert (everything.images, len(everything.picks), everything.radius) == (39, 36, 0.0)
    inside = filled.curation.sample(1_000, SearchFilter(under=copies))
    assert sorted(pick.path for pick in inside.picks) == sorted(map(str, copies.iterdir()))
    outside = filled.curation.sample(1_000, SearchFilter(not_under=[pictures]))
    assert {pick.path for pick in outside.picks} == {pick.path for pick in inside.picks}


def test_typical_images_are_of_the_largest_groups(filled):
    groups = filled.curation.clusters(5).clusters
    sample = filled.curation.sample(5, typical=True)
    assert [pick.path for pick in sample.picks] == [each.representative.path for each in groups]
    assert 2 * sample.radius >= filled.curation.sample(5).radius > 0  # Gonzalez: twice the least


@pytest.mark.parametrize("typical", [False, True])
def test_few_images(collection, pictures, typical):
    assert collection.curation.sample(3, typical=typical).picks == ()
    first = str(sorted(pictures.iterdir())[0])
    collection.ingest([first])
    (pick,) = collection.curation.sample(3, typical=typical).picks
    assert (pick.path, pick.radius) == (first, 0.0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        collection.curation.sample(0, typical=typical)
