from itertools import combinations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from imgsim.curation.linkage import NO_LINKS, Links, concatenated, groups, once_each


def links(*pairs):
    """Links of (first, second, distance)."""
    first, second, distances = zip(*pairs, strict=True)
    both = np.array(first, np.int64), np.array(second, np.int64)
    return Links(*both, np.array(distances, float), np.zeros(len(first), bool))


def test_a_chain_is_no_group():
    assert groups(links((0, 1, 0.1), (1, 2, 0.2))) == [[0, 1]]


def test_who_is_near_all_others_makes_a_group():
    assert groups(links((0, 1, 0.1), (1, 2, 0.2), (0, 2, 0.3))) == [[0, 1, 2]]


def test_two_groups_with_one_link_between_stay_two():
    assert groups(links((0, 1, 0.1), (2, 3, 0.1), (1, 2, 0.2))) == [[0, 1], [2, 3]]


def test_of_equal_distances_the_lesser_nodes_count_first():
    assert groups(once_each(links((1, 2, 0.1), (0, 1, 0.1)))) == [[0, 1]]


def test_nothing():
    assert groups(NO_LINKS) == []
    assert len(once_each(concatenated([]))) == 0


def test_of_a_pair_the_link_counts_that_is_not_posed():
    twice = links((0, 1, 0.3), (0, 1, 0.1), (2, 3, 0.2))
    posed = Links(twice.first, twice.second, twice.distances, np.array([False, True, True]))
    once = once_each(posed)
    assert list(zip(once.first, once.distances, once.posed, strict=True)) == [
        (2, 0.2, True),
        (0, 0.3, False),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_complete_linkage(seed):
    """As of SciPy, cut at the radius."""
    random = np.random.default_rng(seed)
    points, radius = random.random((40, 2)), 0.3
    distances = pdist(points)
    near = [
        (*pair, far)
        for pair, far in zip(combinations(range(40), 2), distances, strict=True)
        if far <= radius
    ]
    labels = fcluster(linkage(points, "complete"), radius, "distance")
    expected = [np.flatnonzero(labels == label).tolist() for label in set(labels)]
    found = groups(once_each(links(*near)))
    assert found == sorted(each for each in expected if len(each) > 1)
