"""Uneven mosaics: four tiles that meet at a random center, against a slow loop and by the colors of painted images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import EXECUTORS, PLAIN, color, make_rng, on_device, painted, plan_for, textured
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from smalti.errors import UserError
from smalti.views.plan import Plan
from smalti.views.uneven_mosaic import UnevenMosaic

SEEDS = st.integers(0, 2**40)
SIZE = 16


def plan_of(view: UnevenMosaic, images: int, block: int = 0, seed: int = 0) -> Plan:
    return view.plan(np.tile([40, 30], (images, 1)), make_rng(images, block, seed=seed))


@given(SEEDS, st.sampled_from([4, 5, 11]), st.sampled_from([0.0, 0.25, 0.5]))
def test_the_four_tiles_meet_at_a_center_and_cover_the_canvas(seed: int, block: int, margin: float) -> None:
    plan = plan_of(UnevenMosaic(size=SIZE, margin=margin), 2 * block, block, seed)
    assert sorted(plan.slots.ravel()) == list(range(8 * block))
    for canvas, boxes in enumerate(plan.regions.boxes.int().tolist()):
        x, y = boxes[0][2:]
        assert boxes == [[0, 0, x, y], [x, 0, SIZE, y], [0, y, x, SIZE], [x, y, SIZE, SIZE]]
        assert margin * SIZE - 0.5 <= min(x, y) <= max(x, y) <= (1 - margin) * SIZE + 0.5
        sources = plan.regions.source[canvas].tolist()
        assert len(set(sources)) == 4
        assert {source // block for source in sources} == {canvas // block}
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
        expected = [np.sqrt(area) / SIZE for area in areas]
        assert plan.regions.weight[canvas].tolist() == pytest.approx([each / 4 for each in expected], abs=1e-6)


@pytest.mark.parametrize("executor", EXECUTORS)
@given(seed=SEEDS)
def test_a_regions_pixels_are_its_sources(executor: str, seed: int) -> None:
    images = painted(8)
    plan = plan_for(UnevenMosaic(size=SIZE, margin=0.1, augmentation=PLAIN), images, block=4, seed=seed)
    canvases = (EXECUTORS[executor](plan, images) * 255).round()
    expected = torch.zeros_like(canvases)
    for canvas, sources, boxes in zip(expected, plan.regions.source, plan.regions.boxes.int(), strict=True):
        for source, (x0, y0, x1, y1) in zip(sources.tolist(), boxes.tolist(), strict=True):
            canvas[:, y0:y1, x0:x1] = torch.from_numpy(color(source))[:, None, None]
    torch.testing.assert_close(canvases, expected, atol=0, rtol=0)


def test_the_view_is_that_of_a_loop_over_its_pixels() -> None:
    images = [image / 255.0 for image in textured(5)]
    plan = plan_for(UnevenMosaic(size=SIZE, augmentation=PLAIN), images, seed=3)
    expected = torch.zeros(5, 3, SIZE, SIZE, dtype=torch.float64)
    for canvas in range(5):
        x, y = plan.regions.boxes[canvas, 0, 2:].int().tolist()  # the center
        for corner, tile in enumerate(plan.slots[canvas].ravel().tolist()):
            a, b, c, d = plan.tiles.crop[tile]
            crop = torch.from_numpy(images[plan.tiles.image[tile]][b:d, a:c]).permute(2, 0, 1)[None]
            whole = F.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=True)[0]
            for row, column in np.ndindex(SIZE, SIZE):
                if (row >= y) == (corner >= 2) and (column >= x) == (corner % 2 == 1):
                    # Its own corner lies at the center: tiles above end there, those below begin there.
                    from_row = row - y if corner >= 2 else row - y + SIZE
                    from_column = column - x if corner % 2 else column - x + SIZE
                    expected[canvas, :, row, column] = whole[:, from_row, from_column]
    torch.testing.assert_close(on_device(plan, images), expected, atol=1e-9, rtol=0)


def test_the_center_is_drawn_evenly() -> None:
    boxes = plan_of(UnevenMosaic(size=1000, margin=0.2), 2000, block=8).regions.boxes
    x, y = boxes[:, 0, 2:].T.numpy()
    assert kstest(x, "uniform", (200, 600)).pvalue > 0.01
    assert kstest(y, "uniform", (200, 600)).pvalue > 0.01
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.06


def test_at_the_greatest_margin_tiles_are_even() -> None:
    boxes = plan_of(UnevenMosaic(size=SIZE, margin=0.5), 8).regions.boxes
    assert (boxes[..., 2:] - boxes[..., :2] == SIZE / 2).all()


@pytest.mark.parametrize("settings", [{"margin": -0.1}, {"margin": 0.6}, {"size": 4}, {"scale": (0.5, 0.2)}])
def test_impossible_mosaics_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        UnevenMosaic(**settings)


def test_a_block_smaller_than_the_mosaic_is_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        plan_of(UnevenMosaic(size=SIZE), 3)


def test_a_resized_mosaic_keeps_its_proportions() -> None:
    assert UnevenMosaic(size=32, margin=0.1).resized(2) == UnevenMosaic(size=64, margin=0.1)
