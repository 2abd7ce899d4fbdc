"""Montages: who lies where, how large, and the whole view against the paper's Algorithm 1."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    EIGHT_BIT,
    EXECUTORS,
    PLAIN,
    UNCHANGED,
    ListSource,
    color,
    exact_canvas,
    make_rng,
    on_device,
    on_host,
    painted,
    plan_for,
    sizes_of,
    textured,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torchvision.transforms.v2 import functional as tv

from smalti.errors import UserError
from smalti.views.crops import Augmentation, Crop
from smalti.views.finish import finish
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.montage import Montage, check_levels
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition, Plan

SEEDS = st.integers(0, 2**40)


@st.composite
def dealings(draw: st.DrawFn) -> tuple[Montage, int, int, int]:
    """A montage, the images of a batch, its block and a seed."""
    level = draw(st.integers(0, 2))
    repeats = draw(st.integers(1, 4))
    block = draw(st.sampled_from([b for b in range(1, 21) if b * repeats % 4**level == 0]))
    shrink = draw(st.sampled_from(["nearest", "area"]))
    view = Montage(size=8 * 2**level, level=level, repeats=repeats, shrink=shrink, augmentation=PLAIN)
    return view, block * draw(st.integers(1, 2)), block, draw(SEEDS)


def plan_of(view: Montage, images: int, block: int = 0, seed: int = 0, step: int = 0) -> Plan:
    return view.plan(np.tile([40, 30], (images, 1)), make_rng(images, block, seed=seed, step=step))


@given(dealings())
def test_every_image_is_placed_as_often_as_asked_and_as_evenly_as_can_be(
    dealing: tuple[Montage, int, int, int],
) -> None:
    view, images, block, seed = dealing
    plan = plan_of(view, images, block, seed)
    cells = 4**view.level
    slots = plan.slots.reshape(-1, cells)
    assert len(slots) == images * view.repeats // cells
    assert sorted(slots.ravel()) == list(range(images * view.repeats))
    assert np.bincount(plan.tiles.image).tolist() == [view.repeats] * images
    for canvas in plan.tiles.image[slots]:
        assert len({image // block for image in canvas}) == 1
        counts = np.bincount(canvas % block, minlength=block)
        assert counts.max() == -(-cells // block)  # 1, unless a canvas has more cells than the block has images
        assert counts.min() == cells // block
    np.testing.assert_array_equal(plan.regions.source, plan.tiles.image[slots])


@given(dealings())
def test_boxes_tile_the_canvas(dealing: tuple[Montage, int, int, int]) -> None:
    view, images, block, seed = dealing
    plan = plan_of(view, images, block, seed)
    assert plan.covered
    assert plan.regions.boxes.dtype == plan.regions.weight.dtype == torch.float32
    assert (plan.regions.weight == 1 / view.grid**2).all()
    assert (plan.regions.level, plan.regions.whole) == (view.level, view.level == 0)
    covered = torch.zeros(len(plan.slots), view.size, view.size)
    for canvas, boxes in zip(covered, plan.regions.boxes.int(), strict=True):
        for x0, y0, x1, y1 in boxes.tolist():
            assert x1 - x0 == y1 - y0 == plan.tile_size
            canvas[y0:y1, x0:x1] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("executor", EXECUTORS)
@given(dealing=dealings())
def test_a_regions_pixels_are_its_sources(executor: str, dealing: tuple[Montage, int, int, int]) -> None:
    view, count, block, seed = dealing
    images = painted(count)
    plan = plan_for(view, images, block=block, seed=seed)
    canvases = (EXECUTORS[executor](plan, images) * 255).round()
    expected = torch.zeros_like(canvases)
    for canvas, sources, boxes in zip(expected, plan.regions.source, plan.regions.boxes.int(), strict=True):
        for source, (x0, y0, x1, y1) in zip(sources.tolist(), boxes.tolist(), strict=True):
            canvas[:, y0:y1, x0:x1] = torch.from_numpy(color(source))[:, None, None]
    torch.testing.assert_close(canvases, expected, atol=0, rtol=0)


def test_the_released_levels_have_their_canvases() -> None:
    counts = [
        len(plan_of(Montage(level=level, repeats=repeats), 128, block=32).slots)
        for level, repeats in enumerate([1, 1, 1, 2])
    ]
    assert counts == [128, 128 // 4, 128 // 16, 128 // 32]
    twice = plan_of(Montage(level=3, repeats=2), 128, block=32).regions.source
    for block, canvas in enumerate(twice):
        assert np.bincount(canvas - 32 * block).tolist() == [2] * 32


@given(SEEDS)
def test_dealing_differs_between_blocks_between_steps_and_between_rounds(seed: int) -> None:
    view = Montage(size=16, level=1, repeats=2)
    plan = plan_of(view, 24, 12, seed)
    first, second = plan.regions.source.reshape(2, -1) - torch.tensor([[0], [12]])
    assert (first != second).any()
    assert (first != plan_of(view, 24, 12, seed, step=1).regions.source.reshape(2, -1)[0]).any()
    neighbors = [[set(canvas) for canvas in part.reshape(3, 4).tolist()] for part in first.reshape(2, -1)]
    assert sorted(map(sorted, neighbors[0])) != sorted(map(sorted, neighbors[1]))


def test_an_image_comes_to_any_cell_of_any_canvas_as_likely() -> None:
    source = plan_of(Montage(size=16, level=1), 3200, block=8).regions.source.reshape(400, -1)  # 400 blocks
    counts = torch.bincount(torch.nonzero(source % 8 == 5)[:, 1], minlength=8)
    assert counts.sum() == 400
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_each_crop_of_an_image_has_its_own_draw() -> None:
    tiles = plan_of(Montage(size=32, level=1, repeats=4), 8).tiles
    crops = tiles.crop.reshape(8, 4, 4)
    assert all(len({tuple(crop) for crop in of_image}) > 1 for of_image in crops)


def test_level_0_is_a_crop() -> None:
    settings: dict[str, Any] = {"size": 16, "scale": (0.2, 1.0), "augmentation": Augmentation(solarize=0.2)}
    view, crop = Montage(level=0, **settings), Crop(**settings)
    images = textured(6)
    here, there = (on_host(plan_for(each, images), images) for each in (view, crop))
    assert torch.equal(here, there)
    assert view.standard
    assert plan_for(view, images).regions.source.flatten().tolist() == list(range(6))
    assert not replace(view, level=1).standard
    assert not replace(view, repeats=2).standard


def algorithm_1(plan: Plan, images: list[Any], shrink: str) -> torch.Tensor:
    """Crop and resize each image, shrink it to its tile; shuffle; Algorithm 1's reshape and permute."""
    ratio, tile = plan.slots.shape[1], plan.tile_size
    small = []
    for image, (x0, y0, x1, y1) in zip(plan.tiles.image, plan.tiles.crop, strict=True):
        crop = torch.from_numpy(images[image][y0:y1, x0:x1]).permute(2, 0, 1)[None]
        side = tile if shrink == "area" else plan.canvas_size
        made = F.interpolate(crop, (side, side), mode="bilinear", antialias=True)
        small.append(made[0] if shrink == "area" else F.interpolate(made, scale_factor=1 / ratio)[0])
    shuffled = torch.stack(small)[torch.from_numpy(plan.slots.ravel())]
    x = shuffled.reshape(-1, ratio, ratio, 3, tile, tile).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, 3, ratio * tile, ratio * tile)


@pytest.mark.parametrize("shrink", ["nearest", "area"])
@pytest.mark.parametrize(("level", "repeats"), [(0, 1), (1, 1), (2, 1), (2, 2)])
def test_the_view_equals_the_papers(level: int, repeats: int, shrink: Literal["nearest", "area"]) -> None:
    view = Montage(size=36, level=level, repeats=repeats, shrink=shrink, augmentation=PLAIN)
    images = [image / 255.0 for image in textured(16)]
    plan = plan_for(view, images, seed=level)
    torch.testing.assert_close(on_device(plan, images), algorithm_1(plan, images, shrink), atol=1e-6, rtol=0)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("level", "repeats"), [(1, 1), (2, 2), (3, 4)])
def test_the_nearest_tile_is_every_rth_pixel_of_the_whole_augmented_view(
    level: int, repeats: int, executor: str
) -> None:
    """Down to the last bit: colors, blur, flip and solarizing come first, as in Algorithm 1."""
    strong = Augmentation(blur=0.5, solarize=0.5)
    view = Montage(size=64, level=level, repeats=repeats, augmentation=strong)
    whole = Crop(size=64, scale=view.scale, count=repeats, augmentation=strong)
    images = textured(16)
    plan, plan_of_whole = (plan_for(each, images, seed=level) for each in (view, whole))
    canvases, views = (EXECUTORS[executor](each, images) for each in (plan, plan_of_whole))
    step, tile = 2**level, view.tile_size
    for canvas, row, column in np.ndindex(plan.slots.shape):
        found = canvases[canvas, :, row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        assert torch.equal(found, views[plan.slots[canvas, row, column]][:, ::step, ::step])


@pytest.mark.parametrize("level", [1, 2])
def test_blurring_and_then_shrinking_is_nearly_the_same(level: int) -> None:
    """Sigma is in pixels of the full-size view, so a tile is blurred as much as the paper's shrunk view is."""
    image = textured(1, side=128)[0] / 255.0
    blurred = replace(PLAIN, blur=1.0, sigma=(3.0, 3.0))
    view = Montage(size=64, level=level, repeats=4**level, shrink="area", augmentation=blurred)
    plan = plan_for(view, [image])
    assert plan.tiles.sigma.tolist() == [3.0 / 2**level] * 4**level
    found = on_device(plan, [image])[0]
    for tile, (x0, y0, x1, y1) in zip(plan.slots.ravel(), plan.regions.boxes[0].int().tolist(), strict=True):
        a, b, c, d = plan.tiles.crop[tile]
        large = tv.resized_crop(torch.from_numpy(image).permute(2, 0, 1), b, a, d - b, c - a, [64, 64], antialias=True)
        blurred = tv.gaussian_blur(large, [19, 19], [3.0, 3.0])
        shrunk = F.interpolate(blurred[None], (64 // 2**level,) * 2, mode="bilinear", antialias=True)[0]
        sharp = F.interpolate(large[None], (64 // 2**level,) * 2, mode="bilinear", antialias=True)[0]
        apart = (found[:, y0:y1, x0:x1] - shrunk).abs().mean()
        assert apart < 0.02
        assert apart < (sharp - shrunk).abs().mean() / 2


@pytest.mark.parametrize("smooth", [0.5, 0.75])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_smoothing_fades_every_tile_away_from_its_center(level: int, smooth: float) -> None:
    view = Montage(size=36, level=level, smooth=smooth, augmentation=PLAIN)
    images = textured(16)
    plain, faded = (exact_canvas(each, images).pixels for each in (replace(view, smooth=0.0), view))
    side = view.tile_size
    for y, x in np.ndindex(36, 36):
        from_center = [(place % side + 0.5 - side / 2) / (smooth * side) for place in (y, x)]
        mask = np.exp(-0.5 * from_center[0] ** 2) * np.exp(-0.5 * from_center[1] ** 2)
        torch.testing.assert_close(faded[:, :, y, x], plain[:, :, y, x] * mask, atol=1e-6, rtol=0)


VIEWS: dict[str, Montage] = {
    "level 1": Montage(size=40, level=1, augmentation=Augmentation(solarize=0.2)),
    "level 1, antialiased": Montage(size=40, level=1, shrink="area", augmentation=Augmentation(solarize=0.2)),
    "level 2, smooth": Montage(size=64, level=2, repeats=4, smooth=0.5, augmentation=Augmentation(solarize=0.2)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("channels", [1, 3, 5])
@given(seed=SEEDS)
def test_executors_agree(view: Montage, channels: int, seed: int) -> None:
    """Within what tests/views/test_executors.py states."""
    images = textured(4, channels, seed=seed % 1000)
    plan = plan_for(view, images, seed=seed)
    normalize = replace(UNCHANGED, mean=(0.0,) * channels, std=(1.0,) * channels)
    apart = [finish(view, plan, run(plan, images), normalize).pixels for run in (on_host, on_device)]
    assert (apart[0] - apart[1]).abs().mean() < 0.004
    assert (apart[0] - apart[1]).abs().max() < 0.08
    deep = [image.astype(np.float32) / 255 for image in images]
    assert (on_host(plan, deep) - on_device(plan, deep)).abs().mean() < 0.001


@pytest.mark.parametrize("ranks", [2, 4])
def test_views_do_not_depend_on_the_number_of_ranks(ranks: int) -> None:
    views = (Montage(size=16, level=1), Montage(size=32, level=2, repeats=4), Montage(size=16, level=0, repeats=2))

    def batch(rank: int, world_size: int) -> Any:
        order = BatchOrder(num_images=40, batch_size=16, seed=5, block=4)
        return ViewDataset(ListSource(images), views, order, EIGHT_BIT, rank=rank, world_size=world_size)[3]

    images = textured(40)
    whole, shares = batch(0, 1), [batch(rank, ranks) for rank in range(ranks)]
    for number, plan in enumerate(whole.plans):
        assert torch.equal(torch.cat([share.pixels[number] for share in shares]), whole.pixels[number])
        regions = [share.plans[number].regions for share in shares]
        source = torch.cat([part.source + rank * 16 // ranks for rank, part in enumerate(regions)])
        assert torch.equal(source, plan.regions.source)
        assert torch.equal(torch.cat([part.boxes for part in regions]), plan.regions.boxes)


@pytest.mark.parametrize(("level", "repeats", "block"), [(1, 1, 6), (2, 1, 8), (3, 1, 32), (3, 2, 24)])
def test_a_block_that_does_not_fill_its_canvases_is_refused(level: int, repeats: int, block: int) -> None:
    view = Montage(size=64, level=level, repeats=repeats)
    with pytest.raises(UserError, match="whole number of montages"):
        view.check_block(block)
    with pytest.raises(UserError, match="whole number of montages"):
        view.plan(sizes_of(painted(block)), make_rng(block))
    multiple = 4**level // repeats
    view.check_block(multiple)
    with pytest.raises(UserError, match=f"a multiple of {multiple}"):
        view.check_block(multiple - 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"level": -1},
        {"repeats": 0},
        {"smooth": -0.5},
        {"size": 225},
        {"level": 5},
        {"scale": (0.5, 0.2)},
        {"shrink": "no"},
    ],
)
def test_impossible_montages_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Montage(**settings)


@pytest.mark.parametrize(("factor", "size"), [(0.5, 112), (0.3, 64), (1.01, 224)])
def test_a_resized_montage_keeps_whole_tiles(factor: float, size: int) -> None:
    assert Montage(level=3).resized(factor) == Montage(size=size, level=3)


def test_views_are_to_have_every_level_and_no_other() -> None:
    montages: list[Composition] = [Montage(level=level) for level in range(4)]
    check_levels([Crop(), Mosaic()], 1)
    check_levels(montages, 4)
    check_levels([*montages, Crop()], 4)
    for views, levels in ((montages, 3), (montages[:3], 4), (montages[1:], 4), ([Crop(), montages[2]], 3)):
        with pytest.raises(UserError, match="views of level"):
            check_levels(views, levels)
