"""Mosaics: who lies where, what is seen of it, and the whole view against the paper's section 2.2."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import EXECUTORS, PLAIN, UNCHANGED, color, make_rng, on_device, painted, plan_for, textured
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, chisquare, kstest, kstwo

from smalti.errors import UserError
from smalti.normalize import Normalize
from smalti.views.finish import finish
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Plan

SEEDS = st.integers(0, 2**40)
NORMALIZE = Normalize()


@st.composite
def dealings(draw: st.DrawFn) -> tuple[Mosaic, int, int, int]:
    """A mosaic, the images of a batch, its block and a seed."""
    tiles = draw(st.sampled_from([1, 4, 9]))
    block = draw(st.integers(tiles, 11))
    view = Mosaic(tile_size=8, tiles=tiles, max_shift=draw(st.integers(0, 8)), augmentation=PLAIN)
    return view, block * draw(st.integers(1, 2)), block, draw(SEEDS)


def plan_of(view: Mosaic, images: int, block: int = 0, seed: int = 0) -> Plan:
    return view.plan(np.tile([40, 30], (images, 1)), make_rng(images, block, seed=seed))


@given(dealings())
def test_every_crop_is_placed_once_and_no_image_twice_on_a_canvas(dealing: tuple[Mosaic, int, int, int]) -> None:
    view, images, block, seed = dealing
    plan = plan_of(view, images, block, seed)
    slots = plan.slots.reshape(images, view.tiles)
    assert sorted(slots.ravel()) == list(range(images * view.tiles))
    for canvas in plan.tiles.image[slots]:
        assert len(set(canvas)) == view.tiles
        assert len({image // block for image in canvas}) == 1
    np.testing.assert_array_equal(plan.regions.source, plan.tiles.image[slots])


@given(SEEDS)
def test_dealing_differs_between_blocks_and_between_steps(seed: int) -> None:
    view = Mosaic(tile_size=8, max_shift=0)
    first, second = plan_of(view, 24, 12, seed).slots.reshape(2, -1) - np.array([[0], [48]])
    assert (first != second).any()
    later = view.plan(np.tile([40, 30], (24, 1)), make_rng(24, 12, seed=seed, step=1))
    assert (first != later.slots.reshape(2, -1)[0]).any()


def test_a_crop_comes_to_any_cell_of_any_canvas_as_likely() -> None:
    view = Mosaic(tile_size=8, max_shift=0)
    crops = plan_of(view, 2400, block=6).slots.reshape(400, -1)  # 400 blocks of 24 crops
    counts = np.bincount(np.nonzero(crops % 24 == 5)[1], minlength=24)
    assert counts.sum() == 400
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("executor", EXECUTORS)
@given(dealing=dealings())
def test_a_regions_pixels_are_its_sources_and_all_else_is_empty(
    executor: str, dealing: tuple[Mosaic, int, int, int]
) -> None:
    view, count, block, seed = dealing
    images = painted(count)
    plan = plan_for(view, images, block=block, seed=seed)
    canvases = (EXECUTORS[executor](plan, images) * 255).round()
    expected = torch.zeros_like(canvases)
    for canvas, sources, boxes in zip(expected, plan.regions.source, plan.regions.boxes.int(), strict=True):
        for source, (x0, y0, x1, y1) in zip(sources.tolist(), boxes.tolist(), strict=True):
            canvas[:, y0:y1, x0:x1] = torch.from_numpy(color(source))[:, None, None]
    torch.testing.assert_close(canvases, expected, atol=0, rtol=0)


@given(dealings())
def test_the_weight_is_the_root_of_the_visible_part(dealing: tuple[Mosaic, int, int, int]) -> None:
    view, images, block, seed = dealing
    view = replace(view, max_shift=view.canvas_size)
    plan = plan_of(view, images, block, seed)
    plain = plan_of(replace(view, weigh_visible=False), images, block, seed).regions.weight
    for canvas, (dx, dy) in enumerate(plan.offset):
        for region in range(view.tiles):
            row, column = divmod(region, view.grid)
            # Pixels of the tile that fall on the canvas, counted one by one along either side.
            x = sum(0 <= column * 8 + dx + pixel < plan.canvas_size for pixel in range(8))
            y = sum(0 <= row * 8 + dy + pixel < plan.canvas_size for pixel in range(8))
            x0, y0, x1, y1 = plan.regions.boxes[canvas, region].tolist()
            assert 0 <= min(x0, y0) <= max(x1, y1) <= plan.canvas_size
            assert (x1 - x0) * (y1 - y0) == x * y
            assert plan.regions.weight[canvas, region] == pytest.approx(math.sqrt(x * y / 64) / view.tiles, abs=1e-6)
            assert plain[canvas, region] == pytest.approx((x * y > 0) / view.tiles, abs=1e-6)


def test_without_jitter_regions_cover_the_canvas() -> None:
    plan = plan_of(Mosaic(tile_size=8, tiles=9, max_shift=0), 9)
    assert plan.covered
    torch.testing.assert_close(plan.regions.weight, torch.full((9, 9), 1 / 9))
    width, height = (plan.regions.boxes[..., 2:] - plan.regions.boxes[..., :2]).unbind(-1)
    assert ((width * height).sum(dim=1) == 24 * 24).all()


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 2.0])
def test_the_shift_follows_a_beta_distribution_both_ways(alpha: float) -> None:
    theta, pixels = 1024, np.arange(-1024, 1025)
    offset = plan_of(Mosaic(tile_size=512, max_shift=theta, alpha=alpha), 4000, 8).offset
    expected = beta(alpha, alpha, -theta, 2 * theta).cdf(pixels + 0.5)  # rounded to whole pixels
    for axis in (0, 1):
        found = np.searchsorted(np.sort(offset[:, axis]), pixels, side="right") / len(offset)
        assert found[-1] == 1
        assert kstwo(len(offset)).sf(abs(found - expected).max()) > 0.01  # Kolmogorov and Smirnov's test
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.05


def test_noise_takes_the_place_of_the_other_images() -> None:
    view = Mosaic(tile_size=32, tiles=4, max_shift=0, background="noise", augmentation=PLAIN)
    images = painted(4)
    plan = plan_for(view, images)
    canvases = {name: finish(view, plan, run(plan, images), UNCHANGED).pixels for name, run in EXECUTORS.items()}
    assert plan.num_canvases == 16
    assert plan.regions.source[:, 0].tolist() == [image for image in range(4) for _ in range(4)]
    assert len({tuple(box) for box in plan.regions.boxes[:, 0].tolist()}) > 1

    outside = torch.ones(16, 64, 64, dtype=torch.bool)
    for canvas, (x0, y0, x1, y1) in enumerate(plan.regions.boxes[:, 0].int().tolist()):
        outside[canvas, y0:y1, x0:x1] = False
        inside = canvases["device"][canvas, :, y0:y1, x0:x1] * 255
        expected = torch.from_numpy(color(canvas // 4)).float()[:, None, None].expand_as(inside)
        torch.testing.assert_close(inside, expected, atol=1e-3, rtol=0)
    noise = canvases["host"].permute(0, 2, 3, 1)[outside].numpy()  # (16 * 64 * 64 * 3/4, 3)
    torch.testing.assert_close(canvases["host"], canvases["device"], atol=1e-6, rtol=0)
    assert kstest(noise[::7].ravel(), "norm").pvalue > 0.01
    first, second = noise.reshape(16, -1)[:2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_noise_also_fills_what_jitter_uncovers() -> None:
    view = Mosaic(tile_size=32, tiles=1, max_shift=32, background="noise", augmentation=PLAIN)
    images = painted(6)
    plan = plan_for(view, images)
    pixels = finish(view, plan, on_device(plan, images), UNCHANGED).pixels
    assert plan.offset.any()
    assert (pixels != 0).all()  # no painted color has a zero, nor has noise


@pytest.mark.parametrize("images", [3, 8])
def test_a_block_smaller_than_the_mosaic_is_refused(images: int) -> None:
    with pytest.raises(UserError, match="twice"):
        plan_of(Mosaic(tile_size=8, tiles=4 if images < 4 else 9, max_shift=0), images)


@pytest.mark.parametrize(
    "settings", [{"tiles": 2}, {"tiles": 16}, {"max_shift": 225}, {"max_shift": -1}, {"alpha": 0}, {"tile_size": 2}]
)
def test_impossible_mosaics_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        Mosaic(**settings)


def test_a_resized_mosaic_keeps_its_proportions() -> None:
    view = Mosaic().resized(0.5)
    assert (view.tile_size, view.canvas_size, view.max_shift) == (56, 112, 24)


def mosaic_by_the_paper(plan: Plan, images: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Section 2.2, pixel by pixel: crop and resize, compose, shift; what is uncovered is 0 after normalization."""
    size, side, mean, std = plan.tile_size, plan.canvas_size, *map(np.array, (NORMALIZE.mean, NORMALIZE.std))
    canvases = np.zeros((plan.num_canvases, 3, side, side))
    for canvas, row, column in np.ndindex(plan.slots.shape):
        tile = plan.slots[canvas, row, column]
        x0, y0, x1, y1 = plan.tiles.crop[tile]
        crop = torch.from_numpy(images[plan.tiles.image[tile]][y0:y1, x0:x1]).permute(2, 0, 1)[None]
        small = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0].numpy()
        if plan.tiles.flip[tile]:
            small = small[:, :, ::-1]
        for y, x in np.ndindex(size, size):
            at_x, at_y = column * size + x + plan.offset[canvas, 0], row * size + y + plan.offset[canvas, 1]
            if 0 <= at_x < side and 0 <= at_y < side:
                canvases[canvas, :, at_y, at_x] = (small[:, y, x] - mean) / std
    return canvases


@pytest.mark.parametrize("flip", [0.0, 0.5])
@pytest.mark.parametrize("tiles", [1, 4, 9])
def test_the_view_equals_the_papers(tiles: int, flip: float) -> None:
    view = Mosaic(tile_size=9, tiles=tiles, max_shift=7, augmentation=replace(PLAIN, flip=flip))
    images = [image / 255.0 for image in textured(9)]
    plan = plan_for(view, images, seed=tiles)
    pixels = finish(view, plan, on_device(plan, images), NORMALIZE).pixels
    assert pixels.dtype == torch.float64
    assert plan.offset.any()
    np.testing.assert_allclose(pixels.numpy(), mosaic_by_the_paper(plan, images), atol=1e-6, rtol=0)
