import io
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image, ImageEnhance

from imgsim.images.likeness import ALIKE, SIDE, Looks, as_grey, grey_square, likeness

DATA = Path(skimage.__file__).parent / "data"


def square(image):
    side = 2 * SIDE
    return as_grey(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)))


def alike(one, other):
    ours, theirs = Looks.of([square(one)]), Looks.of([square(other)])
    return float(likeness(ours, np.array([0]), theirs, np.array([0]))[0])


@pytest.fixture(scope="module")
def photograph():
    return Image.open(DATA / "coffee.png").convert("RGB")


def saved(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [
        saved,
        lambda image: image.resize((image.width // 4, image.height // 4)),
        lambda image: image.crop((30, 40, image.width - 25, image.height - 10)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.75),
        lambda image: image.convert("L"),
    ],
    ids=["saved", "shrunk", "cropped", "darker", "grey"],
)
def test_a_changed_picture_stays_the_same_picture(photograph, change):
    assert alike(photograph, change(photograph)) >= ALIKE
    assert alike(change(photograph), photograph) >= ALIKE


@pytest.mark.parametrize("name", ["chelsea.png", "rocket.jpg", "motorcycle_right.png"])
def test_others_are_not(photograph, name):
    assert alike(photograph, Image.open(DATA / name)) < 0.8


def test_two_views_of_a_scene_are_not():
    """The two cameras of a stereo pair: the same things, at other places."""
    left, right = (Image.open(DATA / f"motorcycle_{side}.png") for side in ("left", "right"))
    assert alike(left, right) < ALIKE


def test_what_both_show_in_part_is_not(photograph):
    """As where a camera was moved: neither is a crop of the other."""
    left = photograph.crop((0, 0, 500, photograph.height))
    right = photograph.crop((100, 0, 600, photograph.height))
    assert alike(left, right) < ALIKE


def test_mirrored_is_not(photograph):
    assert alike(photograph, photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < ALIKE


def test_pictures_of_one_colour_are_alike_if_it_is_the_same(photograph):
    black, white = (Image.new("RGB", (50, 40), colour) for colour in ("black", "white"))
    assert alike(black, black.resize((9, 9))) >= ALIKE
    assert alike(black, white) < ALIKE
    assert alike(black, photograph) < ALIKE


def test_many_pairs_at_once_are_as_one_by_one(crops):
    looks = Looks.of([grey_square(path) for path in crops])
    mine, yours = (each.ravel() for each in np.indices((len(crops), len(crops))))
    together = likeness(looks, mine, looks, yours)
    assert (together.reshape(len(crops), -1).diagonal() >= ALIKE).all()
    for pair in (0, 7, 36 * 36 - 1):
        alone = likeness(looks, mine[pair : pair + 1], looks, yours[pair : pair + 1])
        assert alone == pytest.approx(together[pair : pair + 1], abs=1e-4)


def test_no_pairs():
    nothing, none = Looks.of([]), np.empty(0, np.int64)
    assert likeness(nothing, none, nothing, none).shape == (0,)
