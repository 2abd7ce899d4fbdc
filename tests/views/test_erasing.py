"""Cutout and Random Erasing: which pixels are lost, and what stands in their place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import EXECUTORS, UNCHANGED, exact_canvas, make_rng, painted, plan_for, textured
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from smalti.errors import UserError
from smalti.views.crops import Crop
from smalti.views.erasing import Cutout, RandomErasing
from smalti.views.finish import finish

SEEDS = st.integers(0, 2**40)
SIZE = 16
CUTOUT = Cutout(size=SIZE, side=7)
ERASING = RandomErasing(size=SIZE)
VIEWS = {"cutout": CUTOUT, "random erasing": ERASING}


def cutout_box(u: float, v: float, side: int) -> tuple[int, int, int, int]:
    x, y = int(u * SIZE) - side // 2, int(v * SIZE) - side // 2
    return max(x, 0), max(y, 0), min(x + side, SIZE), min(y + side, SIZE)


def erasing_box(view: RandomErasing, shares: list[float], aspects: list[float], u: float, v: float) -> tuple:
    """Algorithm 1 of Random Erasing, with its random numbers given."""
    for share, aspect in zip(shares, aspects, strict=True):
        area = SIZE * SIZE * (view.area[0] + share * (view.area[1] - view.area[0]))
        ratio = view.aspect + aspect * (1 / view.aspect - view.aspect)
        height, width = int((area * ratio) ** 0.5), int((area / ratio) ** 0.5)
        if height < SIZE and width < SIZE:
            x, y = int(u * (SIZE - width)), int(v * (SIZE - height))
            return x, y, x + width, y + height
    return 0, 0, 0, 0


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("side", [1, 7, 8, 30])
def test_cutout_loses_a_square(side: int, probability: float) -> None:
    view, images = replace(CUTOUT, side=side, probability=probability), textured(12)
    rng = make_rng(12)
    happens, center = rng.per_image("cutout")[:, 0, 0], rng.per_image("cutout centre", numbers=2)[:, 0]
    expected = exact_canvas(Crop(size=SIZE), images).pixels
    for canvas in np.flatnonzero(happens < probability):
        x0, y0, x1, y1 = cutout_box(*center[canvas], side)
        expected[canvas, :, y0:y1, x0:x1] = 0
    torch.testing.assert_close(exact_canvas(view, images).pixels, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("area", [(0.02, 0.4), (0.5, 0.95)])
def test_random_erasing_follows_its_algorithm(area: tuple[float, float], probability: float) -> None:
    view, images = replace(ERASING, area=area, probability=probability), textured(12)
    rng = make_rng(12)
    happens, fill = rng.per_image("erasing")[:, 0, 0], rng.per_image("erasing fill")[:, 0, 0]
    shares, aspects, corner = (
        rng.per_image(f"erasing {name}", numbers=count)[:, 0].tolist()
        for name, count in (("area", 20), ("aspect", 20), ("corner", 2))
    )
    expected = exact_canvas(Crop(size=SIZE), images).pixels
    for canvas in np.flatnonzero(happens < probability):
        x0, y0, x1, y1 = erasing_box(view, shares[canvas], aspects[canvas], *corner[canvas])
        expected[canvas, :, y0:y1, x0:x1] = fill[canvas]
    torch.testing.assert_close(exact_canvas(view, images).pixels, expected, atol=1e-6, rtol=0)


def test_no_box_is_erased_where_none_fits() -> None:
    # Nearly the whole canvas, in a shape that is hardly ever square.
    erased = plan_for(replace(ERASING, probability=1, area=(0.98, 0.99), aspect=0.01), painted(20)).erased
    np.testing.assert_array_equal(erased[:, 2:], erased[:, :2])


@given(SEEDS, st.sampled_from(sorted(VIEWS)))
def test_boxes_lie_on_the_canvas_and_differ_between_images(seed: int, name: str) -> None:
    boxes = plan_for(replace(VIEWS[name], probability=1), painted(12), seed=seed).erased
    assert boxes.min() >= 0
    assert boxes.max() <= SIZE
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert len({tuple(box) for box in boxes.tolist()}) > 1


@pytest.mark.parametrize("name", VIEWS)
def test_erasing_happens_as_often_as_it_should(name: str) -> None:
    view = replace(VIEWS[name], probability=0.3)
    plan = view.plan(np.tile([40, 30], (4000, 1)), make_rng(4000))
    assert (plan.erased.any(axis=1)).mean() == pytest.approx(0.3, abs=0.03)


def test_values_of_random_erasing_are_uniform() -> None:
    plan = ERASING.plan(np.tile([40, 30], (4000, 1)), make_rng(4000))
    assert kstest(plan.fill, "uniform").pvalue > 0.01


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_an_erased_crop_is_a_standard_view_on_both_executors(view: Cutout | RandomErasing) -> None:
    images = textured(8)
    plan = plan_for(view, images)
    host, device = (finish(view, plan, run(plan, images), UNCHANGED).pixels for run in EXECUTORS.values())
    assert view.standard
    assert plan.regions.source.tolist() == [[image] for image in range(8)]
    assert (host - device).abs().mean() < 0.004
    assert (host - device).abs().max() < 0.08


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_erasing_is_the_same_for_any_number_of_ranks(view: Cutout | RandomErasing) -> None:
    images = textured(8)
    whole = exact_canvas(view, images).pixels
    parts = [exact_canvas(view, images[start : start + 4], first=start).pixels for start in (0, 4)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{"probability": 1.5}, {"side": 0}, {"size": 4}])
def test_impossible_cutouts_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        Cutout(**settings)


@pytest.mark.parametrize("settings", [{"probability": -1}, {"area": (0.5, 0.2)}, {"area": (0, 0.2)}, {"aspect": 0}])
def test_impossible_erasings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        RandomErasing(**settings)


def test_a_resized_cutout_keeps_its_proportions() -> None:
    view = CUTOUT.resized(2)
    assert (view.size, view.side) == (32, 14)
    assert ERASING.resized(0.5).size == 8
