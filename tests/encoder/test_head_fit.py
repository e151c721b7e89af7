from itertools import islice

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from imgsim.encoder.head_fit import (
    colour_evidence,
    palette,
    principal_directions,
    relevant_directions,
    unit,
    weight_of_colours,
)


def softmax(values):
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class TestDirections:
    def test_they_are_principal(self):
        random = np.random.default_rng(0)
        rows = random.normal(size=(500, 6)) * [9, 5, 3, 1, 1, 1] + 7
        layer = principal_directions(rows.astype(np.float32), 3, 0.2)
        found = rows @ layer.weights + layer.bias
        assert found.shape == (500, 3)
        assert np.abs(found.mean(axis=0)).max() < 1e-3
        covariance = np.cov(found.T)
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-2
        assert np.allclose(np.diag(covariance), np.array([9, 5, 3]) ** (2 - 0.4), rtol=0.15)

    @pytest.mark.parametrize(("rows", "values", "kept"), [(3, 6, 2), (50, 6, 6), (2, 6, 1)])
    def test_there_are_no_more_than_the_rows_allow(self, rows, values, kept):
        random = np.random.default_rng(0).normal(size=(rows, values)).astype(np.float32)
        assert principal_directions(random, 256, 0.2).weights.shape == (values, kept)

    def test_power_0_keeps_distances(self):
        rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
        layer = principal_directions(rows, 6, 0.0)
        assert np.allclose(pdist(rows @ layer.weights + layer.bias), pdist(rows), rtol=1e-4)

    def test_equal_rows(self):
        equal = np.full((5, 4), 0.5, np.float32)
        for layer in (principal_directions(equal, 3, 0.2), relevant_directions(equal, 3)):
            assert np.isfinite(layer.weights).all()
        assert np.abs(equal @ layer.weights + layer.bias).max() < 1e-3

    def test_what_pairs_differ_in_counts_less(self):
        """Four rows of each of 150 things; the things differ in ten values, and rows in others."""
        random = np.random.default_rng(0)
        things = np.arange(600) // 4
        kind = random.normal(size=(150, 10))[things]
        nuisance = 1.5 * random.normal(size=(600, 3))
        rows = unit(np.concatenate([kind, nuisance], axis=1).astype(np.float32))
        layer = relevant_directions(rows, 12)
        assert layer.weights.shape == (13, 12)

        def right(embeddings):
            distances = squareform(pdist(embeddings)) + 1e9 * np.eye(600)
            return np.mean(things[distances.argmin(axis=1)] == things)

        assert right(unit(rows @ layer.weights + layer.bias)) > right(rows) + 0.1

    def test_unit(self):
        rows = unit(np.array([[3, 4], [0, 0]], np.float32))
        assert np.allclose(rows, [[0.6, 0.8], [0, 0]])


class TestPalette:
    def test_every_colour_of_a_few_has_its_own_share(self):
        colours = np.array([[255, 0, 0], [0, 255, 0], [20, 20, 20], [250, 250, 250]], np.uint8)
        images = np.broadcast_to(colours[:, np.newaxis, np.newaxis], (4, 8, 8, 3))
        layer = palette(images, seed=0)
        shares = softmax(colours @ layer.weights + layer.bias)
        assert shares.shape == (4, 4)
        assert np.allclose(shares.max(axis=1), 1, atol=1e-3)
        assert len(set(shares.argmax(axis=1))) == 4

    def test_there_are_256_of_many(self):
        images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
        layer = palette(images, seed=0)
        assert layer.weights.shape == (3, 256)
        assert np.array_equal(layer.weights, palette(images, seed=0).weights)


def photographed_twice(own):
    """200 images: two of each of 100 things, so many of which have their own colour."""
    random = np.random.default_rng(0)
    patterns = random.integers(60, 196, (100, 4, 4, 1), np.uint8)
    tints = random.uniform(0.2, 1, (100, 3))
    for number in range(200):
        thing = number // 2
        grey = patterns[thing].repeat(8, axis=0).repeat(8, axis=1)
        tint = tints[thing if thing < own else random.integers(100)]
        tinted = (grey + random.normal(0, 4, grey.shape)) * tint
        yield np.clip(tinted, 0, 255).astype(np.uint8)


class TestWeightOfColours:
    @pytest.mark.parametrize(("own", "weight"), [(0, "little"), (4, "some"), (100, "much")])
    def test_things_have_their_colour_or_any(self, own, weight):
        assert weight_of_colours(map(colour_evidence, photographed_twice(own))) == weight

    @pytest.mark.parametrize("images", [0, 1, 199])
    def test_few_images_do_not_tell(self, images):
        assert (
            weight_of_colours(map(colour_evidence, islice(photographed_twice(100), images)))
            == "some"
        )

    def test_of_equal_images_one_counts(self):
        assert weight_of_colours(map(colour_evidence, [*photographed_twice(0)] * 2)) == "little"
