import numpy as np
import pytest
import tensorflow as tf

from imgsim import TrainingSettings
from imgsim.errors import ImageError
from imgsim.training.augment import JITTERS, Jitter, augmented
from imgsim.training.dataset import batches
from imgsim.training.loss import nt_xent

IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3)).astype(np.float32)


def views(seed, jitter=JITTERS["little"], images=IMAGES):
    seeds = tf.constant([seed, 0], tf.int64)
    return [np.asarray(tensor) for tensor in augmented(images, 16, jitter, seeds)]


class TestViews:
    def test_shape_and_range(self):
        view, clean = views(1)
        assert view.shape == clean.shape == (6, 16, 16, 3)
        assert view.min() >= 0
        assert view.max() <= 255

    def test_the_same_seed_gives_the_same_views_and_another_others(self):
        assert np.array_equal(views(1)[0], views(1)[0])
        assert not np.array_equal(views(1)[0], views(2)[0])

    def test_without_jitter_a_view_is_its_crop(self):
        view, clean = views(1, Jitter(0.0, 0.0, 0.0))
        assert np.allclose(view, clean, atol=0.1)

    def test_crops_are_of_a_fifth_or_more_and_half_are_mirrored(self):
        """In a horizontal ramp, the values at the edges tell where a crop was taken."""
        ramp = np.broadcast_to(np.linspace(0, 255, 256)[:, np.newaxis], (400, 8, 256, 3))
        clean = views(3, images=ramp.astype(np.float32))[1]
        widths = (clean[:, 0, -1, 0] - clean[:, 0, 0, 0]) / 255
        assert 0.4 < np.mean(widths < 0) < 0.6
        assert np.abs(widths).min() > 0.2 * 3 / 4
        assert np.abs(widths).max() <= 1.001

    def test_grey_stays_grey(self):
        grey = np.repeat(IMAGES[..., :1], 3, axis=-1)
        view = views(1, images=grey)[0]
        assert np.ptp(view, axis=-1).max() < 1

    @pytest.mark.parametrize(("name", "greys"), [("little", (0.1, 0.3)), ("much", (0, 0))])
    def test_some_lose_their_colours(self, name, greys):
        images = np.broadcast_to(np.float32([200, 100, 50]), (400, 4, 4, 3))
        view = views(5, JITTERS[name], images)[0]
        share = np.mean(np.ptp(view[:, 0, 0], axis=-1) < 1)
        assert greys[0] <= share <= greys[1]


class TestLoss:
    def test_against_the_formula(self):
        """Chen et al. 2020, equation 1, written as it stands there, with temperature 0.2."""
        rows = np.random.default_rng(1).normal(size=(8, 5))
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        expected = []
        for i in range(8):
            j = (i + 4) % 8
            others = sum(np.exp(unit[i] @ unit[k] / 0.2) for k in range(8) if k != i)
            expected.append(-np.log(np.exp(unit[i] @ unit[j] / 0.2) / others))
        found = nt_xent(None, tf.constant(rows, tf.float32))
        assert np.allclose(found, expected, rtol=1e-4)

    def test_a_single_image_costs_nothing(self):
        assert np.allclose(nt_xent(None, tf.constant([[1.0, 2.0], [3.0, -1.0]])), 0, atol=1e-6)


class TestBatches:
    SETTINGS = TrainingSettings(image_size=32, batch_size=4, colours="none")

    def load(self, number):
        return np.full((32, 32, 3), number, np.uint8)

    def test_a_batch_is_two_views_of_each_image(self):
        settings = self.SETTINGS
        for images, outputs in batches(self.load, range(10), settings, training=True):
            assert images.shape == (8, 32, 32, 3)
            clean = np.asarray(outputs["reconstruction"])[:, 0, 0, 0] * 255
            assert np.allclose(clean[:4], clean[4:], atol=1e-3)

    def test_views_for_validation_are_the_same_every_time(self):
        dataset = batches(self.load, range(10), self.SETTINGS, training=False)
        first, second = ([np.asarray(images) for images, _ in dataset] for _ in range(2))
        assert [len(images) for images in first] == [8, 8, 4]
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    @pytest.mark.parametrize(("broken", "sizes"), [(1, [8, 8]), (7, [6]), (10, [])])
    def test_training_batches_are_whole_unless_there_is_but_one(self, broken, sizes):
        """Whatever the number of files that cannot be decoded."""

        def load(number):
            if number < broken:
                raise ImageError(str(number), "broken")
            return self.load(number)

        dataset = batches(load, range(10), self.SETTINGS, training=True)
        assert [len(images) for images, _ in dataset] == sizes

    def test_views_for_training_are_always_others(self):
        dataset = batches(self.load, range(4), self.SETTINGS, training=True)
        first, second = (np.sort(np.asarray(next(iter(dataset))[0]), axis=0) for _ in range(2))
        assert not np.array_equal(first, second)
