"""Copy-paste: a square of another image's crop, against a slow loop and by the colors of painted images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import EXECUTORS, PLAIN, UNCHANGED, color, exact_canvas, make_rng, painted, plan_for, textured
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from smalti.errors import UserError
from smalti.views.copy_paste import CopyPaste, CopyPastePlan
from smalti.views.crops import Crop
from smalti.views.finish import finish

SEEDS = st.integers(0, 2**40)
SIZE = 16
VIEW = CopyPaste(size=SIZE, side=(0.2, 0.7), probability=0.7)


def plan_of(view: CopyPaste, images: int, block: int = 0) -> CopyPastePlan:
    return view.plan(np.tile([40, 30], (images, 1)), make_rng(images, block))


@given(SEEDS, st.sampled_from([2, 3, 8]))
def test_the_view_is_that_of_a_loop_over_its_pixels(seed: int, block: int) -> None:
    images = textured(2 * block, side=24)
    plan = plan_for(VIEW, images, block=block, seed=seed)
    crops = exact_canvas(Crop(size=SIZE), images, block=block, seed=seed).pixels
    canvas = exact_canvas(VIEW, images, block=block, seed=seed)
    for own, (other, (x0, y0, x1, y1), (u, v)) in enumerate(zip(plan.partner, plan.pasted, plan.cut, strict=True)):
        assert 0 <= min(x0, y0, u, v) <= max(x1, y1, u + x1 - x0, v + y1 - y0) <= SIZE
        assert other != own
        assert other // block == own // block
        expected = crops[own].clone()
        for y in range(y0, y1):
            for x in range(x0, x1):
                expected[:, y, x] = crops[other][:, v + y - y0, u + x - x0]
        torch.testing.assert_close(canvas.pixels[own], expected, atol=0, rtol=0)
        hidden = (x1 - x0) * (y1 - y0) / SIZE**2
        assert canvas.regions.source[own].tolist() == [own, other]
        assert canvas.regions.boxes[own].tolist() == [[0, 0, SIZE, SIZE], [x0, y0, x1, y1]]
        assert canvas.regions.weight[own].tolist() == pytest.approx(
            [np.sqrt(1 - hidden) / 2, float(hidden > 0) / 2], abs=1e-6
        )


@pytest.mark.parametrize("executor", EXECUTORS)
@given(seed=SEEDS)
def test_a_regions_pixels_are_its_sources(executor: str, seed: int) -> None:
    view, images = replace(VIEW, augmentation=PLAIN), painted(8)
    plan = plan_for(view, images, seed=seed)
    pixels = finish(view, plan, EXECUTORS[executor](plan, images), UNCHANGED).pixels * 255
    for own in range(8):
        expected = torch.from_numpy(color(own)).float()[:, None, None].repeat(1, SIZE, SIZE)
        x0, y0, x1, y1 = plan.regions.boxes[own, 1].int().tolist()
        expected[:, y0:y1, x0:x1] = torch.from_numpy(color(int(plan.regions.source[own, 1])))[:, None, None]
        torch.testing.assert_close(pixels[own], expected, atol=1e-3, rtol=0)


def test_pasting_happens_as_often_and_as_largely_as_asked() -> None:
    plan = plan_of(CopyPaste(size=1000, side=(0.2, 0.6), probability=0.3), 4000, block=8)
    side = plan.pasted[:, 2] - plan.pasted[:, 0]
    pasted = side > 0
    assert pasted.mean() == pytest.approx(0.3, abs=0.03)
    assert kstest(side[pasted], "uniform", (200, 400)).pvalue > 0.01
    free = (1000 - side[pasted] + 1)[:, None]
    for corner in (plan.pasted[pasted, :2], plan.cut[pasted]):
        for place in ((corner + 0.5) / free).T:
            assert kstest(place, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(plan.pasted[pasted, 0], plan.cut[pasted, 0])[0, 1]) < 0.3  # both grow with the room left


@pytest.mark.parametrize("ranks", [2, 4])
def test_views_are_the_same_for_any_number_of_ranks(ranks: int) -> None:
    images, share = textured(16), 16 // ranks
    whole = exact_canvas(VIEW, images, block=4)
    for rank in range(ranks):
        here = slice(rank * share, (rank + 1) * share)
        part = exact_canvas(VIEW, images[here], block=4, first=rank * share)
        torch.testing.assert_close(part.pixels, whole.pixels[here], atol=1e-9, rtol=0)
        assert torch.equal(part.regions.source, whole.regions.source[here] - rank * share)


@pytest.mark.parametrize(
    "settings", [{"probability": 1.5}, {"side": (0.0, 0.5)}, {"side": (0.5, 0.2)}, {"side": (0.5, 1.1)}, {"size": 4}]
)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        CopyPaste(**settings)


def test_a_block_of_one_image_is_refused() -> None:
    with pytest.raises(UserError, match="one image"):
        plan_of(VIEW, 1)


def test_it_is_no_standard_view_and_keeps_its_proportions() -> None:
    assert not VIEW.standard
    assert VIEW.resized(2) == replace(VIEW, size=2 * SIZE)
