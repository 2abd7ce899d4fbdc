"""Crops are drawn as torchvision's RandomResizedCrop draws them, and never leave the image."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers import make_rng
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop

from smalti.errors import UserError
from smalti.views.crops import Augmentation, Crop
from smalti.views.plan import Tiles

SIDES = st.integers(1, 3000)


def draw(view: Crop, width: int, height: int, count: int = 1, seed: int = 0) -> Tiles:
    """Tiles for `count` images of one size."""
    return view.plan(np.tile([width, height], (count, 1)), make_rng(count, seed=seed)).tiles


def sides(tiles: Tiles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return tiles.crop[:, 2] - tiles.crop[:, 0], tiles.crop[:, 3] - tiles.crop[:, 1]


@given(SIDES, SIDES, st.integers(0, 2**40))
@example(1, 1, 0)
@example(1, 500, 0)
@example(500, 1, 0)
def test_boxes_lie_inside_the_image_and_hold_a_pixel(width: int, height: int, seed: int) -> None:
    x0, y0, x1, y1 = draw(Crop(count=4), width, height, 3, seed).crop.T
    assert ((x0 >= 0) & (x0 < x1) & (x1 <= width)).all()
    assert ((y0 >= 0) & (y0 < y1) & (y1 <= height)).all()


@given(st.integers(100, 1000), st.floats(0.8, 1.25), st.integers(0, 2**40))
def test_area_and_ratio_are_in_range_up_to_rounding(height: int, aspect: float, seed: int) -> None:
    view = Crop(scale=(0.1, 0.6), ratio=(3 / 4, 4 / 3), count=4)
    width = round(height * aspect)
    w, h = sides(draw(view, width, height, 5, seed))
    share, ratio = w * h / (width * height), w / h
    rounding = 2 / min(w.min(), h.min())
    assert ((share > 0.1 * (1 - rounding)) & (share < 0.6 * (1 + rounding))).all()
    assert ((ratio > 3 / 4 * (1 - rounding)) & (ratio < 4 / 3 * (1 + rounding))).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((1, 500), (0, 249, 1, 250)),
        ((500, 1), (249, 0, 250, 1)),
        ((1000, 30), (480, 0, 520, 30)),  # as wide as a ratio of 4/3 allows
        ((30, 1000), (0, 480, 30, 520)),
    ],
)
def test_a_shape_that_no_crop_fits_gives_its_center(size: tuple[int, int], box: tuple[int, ...]) -> None:
    tiles = draw(Crop(scale=(0.9, 1.0), count=3), *size)
    assert tiles.crop.tolist() == [list(box)] * 3


@pytest.mark.parametrize("size", [(500, 375), (640, 200), (96, 96)])
def test_scale_ratio_and_place_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    width, height = size
    image = torch.empty(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)])
    y, x, h, w = theirs.T
    tiles = draw(Crop(), width, height, 2000)
    our_w, our_h = sides(tiles)
    assert ks_2samp(our_w * our_h, w * h).pvalue > 0.01
    assert ks_2samp(our_w / our_h, w / h).pvalue > 0.01
    assert ks_2samp(tiles.crop[:, 0], x).pvalue > 0.01
    assert ks_2samp(tiles.crop[:, 1], y).pvalue > 0.01


def test_every_place_that_a_crop_fits_is_as_likely() -> None:
    tiles = draw(Crop(scale=(0.25, 0.25), ratio=(1, 1)), 10, 10, 3000)  # 5 px of 10: six places along each side
    for start in tiles.crop[:, :2].T:
        counts = np.bincount(start)
        assert len(counts) == 6
        assert chisquare(counts).pvalue > 0.01


def test_augmentations_happen_as_often_and_as_strongly_as_asked() -> None:
    strength = Augmentation(flip=0.3, jitter=0.8, brightness=0.4, hue=0.1, gray=0.2, blur=0.5, solarize=0.25)
    tiles = draw(Crop(augmentation=strength), 64, 64, 4000)
    for happens, probability in [
        (tiles.flip, 0.3),
        (tiles.brightness != 1, 0.8),
        (tiles.gray, 0.2),
        (tiles.sigma > 0, 0.5),
        (tiles.solarize < 1, 0.25),
        (tiles.contrast_last, 0.5),
    ]:
        assert happens.mean() == pytest.approx(probability, abs=0.03)
    jittered = tiles.brightness != 1
    assert kstest(tiles.brightness[jittered], "uniform", (0.6, 0.8)).pvalue > 0.01
    assert kstest(tiles.hue[jittered], "uniform", (-0.1, 0.2)).pvalue > 0.01
    assert kstest(tiles.sigma[tiles.sigma > 0], "uniform", (0.1, 1.9)).pvalue > 0.01


def test_a_shift_of_brightness_is_drawn_evenly_both_ways_and_nothing_else_changes() -> None:
    factor = Augmentation(brightness=0.3)
    factors, shifts = (
        draw(Crop(augmentation=replace(factor, brightness_mode=mode)), 64, 64, 4000) for mode in ("factor", "shift")
    )
    jittered = shifts.shift != 0
    assert jittered.mean() == pytest.approx(0.8, abs=0.03)
    assert kstest(shifts.shift[jittered], "uniform", (-0.3, 0.6)).pvalue > 0.01
    assert (shifts.brightness == 1).all()
    assert (factors.shift == 0).all()
    for name in {field.name for field in fields(Tiles)} - {"brightness", "shift"}:
        np.testing.assert_array_equal(getattr(shifts, name), getattr(factors, name))


def test_the_place_of_each_change_among_four_is_drawn_as_in_a_random_order() -> None:
    tiles = draw(Crop(), 64, 64, 6000)
    before = ~tiles.contrast_last & ~tiles.saturation_last
    after = tiles.contrast_last & tiles.saturation_last
    # In an order of contrast, saturation and hue, hue is last in a third of cases and first in a third.
    assert before.mean() == pytest.approx(1 / 3, abs=0.03)
    assert after.mean() == pytest.approx(1 / 3, abs=0.03)


def test_each_crop_of_each_image_is_one_whole_canvas() -> None:
    sizes = np.array([[80, 60], [50, 70]])
    plan = Crop(size=32, count=3).plan(sizes, make_rng(2))
    assert plan.tiles.image.tolist() == plan.regions.source[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert plan.regions.boxes.tolist() == [[[0, 0, 32, 32]]] * 6
    assert plan.regions.weight.tolist() == [[1]] * 6
    assert plan.regions.whole
    assert plan.covered
    assert len({tuple(box) for box in plan.tiles.crop.tolist()}) == 6


def test_every_random_field_depends_on_the_image_alone() -> None:
    sizes = np.tile([80, 60], (6, 1))
    whole = Crop(count=2).plan(sizes, make_rng(6)).tiles
    last = Crop(count=2).plan(sizes[4:], make_rng(2, first=4)).tiles
    for field in fields(Tiles):
        if field.name != "image":
            np.testing.assert_array_equal(getattr(last, field.name), getattr(whole, field.name)[8:])


@pytest.mark.parametrize(
    "settings",
    [{"size": 4}, {"scale": (0.5, 0.2)}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.1)}, {"ratio": (0, 1)}, {"count": 0}],
)
def test_impossible_crops_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        Crop(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"flip": 1.5},
        {"jitter": -0.1},
        {"brightness": 2},
        {"hue": 0.6},
        {"sigma": (0, 2)},
        {"sigma": (2, 1)},
        {"interpolation": "nearest"},
        {"brightness_mode": "gamma"},
    ],
)
def test_impossible_augmentations_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        Augmentation(**settings)
