"""Both executors render a plan alike, and as torchvision would.

Stated tolerances, of [0, 1]: 8-bit canvases differ by less than 0.004 on average and 0.08 anywhere (the host rounds to
levels after every change), float canvases by less than 0.001 on average.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers import EXECUTORS, PLAIN, UNCHANGED, make_rng, on_device, on_host, plan_for, sizes_of, stack, textured
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from smalti.images.photos import photos
from smalti.views.crops import Augmentation, Crop
from smalti.views.finish import finish
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition, Plan, Tiles
from smalti.views.render_device import render

STRONG = Augmentation(solarize=0.2)
BICUBIC = replace(STRONG, interpolation="bicubic")
SHIFTED = replace(STRONG, brightness_mode="shift")
VIEWS = {
    "crop": Crop(size=32, augmentation=STRONG),
    "bicubic crop": Crop(size=32, augmentation=BICUBIC),
    "shifted crop": Crop(size=32, augmentation=SHIFTED),
    "mosaic": Mosaic(tile_size=20, max_shift=11, augmentation=STRONG),
    "noise": Mosaic(tile_size=20, max_shift=11, background="noise", augmentation=STRONG),
}
SEEDS = st.integers(0, 2**40)


def difference(view: Composition, images: list[NDArray[Any]], seed: int) -> Tensor:
    plan = plan_for(view, images, seed=seed)
    return (on_host(plan, images) - on_device(plan, images)).abs()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("channels", [1, 3, 5])
@given(seed=SEEDS)
def test_executors_agree_on_8_bit_images(view: Composition, channels: int, seed: int) -> None:
    apart = difference(view, textured(5, channels, seed=seed % 1000), seed)
    assert apart.mean() < 0.004
    assert apart.max() < 0.08


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("channels", [1, 3, 5])
@given(seed=SEEDS)
def test_executors_agree_on_deeper_images(view: Composition, channels: int, seed: int) -> None:
    images = [image.astype(np.float32) / 255 for image in textured(5, channels, seed=seed % 1000)]
    assert difference(view, images, seed).mean() < 0.001


def test_deeper_images_keep_more_than_8_bits() -> None:
    ramp = np.linspace(0.5, 0.5 + 1 / 255, 64 * 64, dtype=np.float32).reshape(64, 64, 1)  # within one 8-bit level
    view = Crop(size=16, augmentation=PLAIN)
    plan = plan_for(view, [ramp])
    for render_plan in EXECUTORS.values():
        assert len(render_plan(plan, [ramp]).unique()) > 100


def one_tile(view: Crop, image: NDArray[Any], **changes: Any) -> Plan:
    """The plan of one crop, every field of its tile that is not named set to no change."""
    plan = replace(view, augmentation=PLAIN).plan(sizes_of([image]), make_rng(1, seed=3))
    return replace(plan, tiles=replace(plan.tiles, **{name: np.array([value]) for name, value in changes.items()}))


def cropped(plan: Plan, image: NDArray[Any]) -> Tensor:
    """torchvision's resized crop, (C, S, S); of floats bicubic interpolation leaves [0, 1] there."""
    x0, y0, x1, y1 = plan.tiles.crop[0].tolist()
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    size = [plan.tile_size, plan.tile_size]
    mode = InterpolationMode.BICUBIC if plan.tiles.bicubic[0] else InterpolationMode.BILINEAR
    resized = tv.resized_crop(pixels, y0, x0, y1 - y0, x1 - x0, size, mode, antialias=True)
    return resized.clamp(0, 1) if resized.is_floating_point() else resized


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("size", [16, 32, 80])  # smaller and larger than the crop
def test_crop_resize_and_flip_are_torchvisions(size: int, bicubic: bool, flip: bool) -> None:
    image = textured(1)[0]
    plan = one_tile(Crop(size=size), image, flip=flip, bicubic=bicubic)
    eight_bit, exact = (cropped(plan, pixels) for pixels in (image, image.astype(np.float32) / 255))
    if flip:
        eight_bit, exact = tv.hflip(eight_bit), tv.hflip(exact)
    torch.testing.assert_close(on_device(plan, [image.astype(np.float32) / 255])[0], exact, atol=1e-5, rtol=0)
    torch.testing.assert_close(on_device(plan, [image])[0], exact, atol=1e-5, rtol=0)
    assert (on_host(plan, [image])[0] * 255 - eight_bit).abs().max() < 1.001


def cubic(distance: float) -> float:
    """Keys' kernel with a = -1/2, as it is usually written."""
    d = abs(distance)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def bicubic_by_loops(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """An antialiased bicubic resize of (H, W, C), one row or column after the other, clamped to [0, 1]."""
    for axis in (0, 1):
        lines = np.moveaxis(image, axis, 0)
        scale = len(lines) / size
        resized = np.zeros((size, *lines.shape[1:]))
        for place in range(size):
            weight = [cubic((n + 0.5 - scale * (place + 0.5)) / max(scale, 1)) for n in range(len(lines))]
            for line, w in zip(lines, weight, strict=True):
                resized[place] += line * w / sum(weight)
        image = np.moveaxis(resized, 0, axis)
    return image.clip(0, 1)


@pytest.mark.parametrize("size", [16, 80])
@given(seed=SEEDS)
def test_bicubic_interpolation_is_pils_and_the_kernels(size: int, seed: int) -> None:
    """Of black and white blocks, at whose edges it overshoots: within 2e-6 of the kernel, two levels of PIL."""
    image = np.random.default_rng(seed).integers(0, 2, (7, 9, 3)).repeat(6, axis=0).repeat(6, axis=1) * 255
    image = image.astype(np.uint8)
    plan = one_tile(Crop(size=size), image, bicubic=True)
    x0, y0, x1, y1 = plan.tiles.crop[0].tolist()
    expected = torch.from_numpy(bicubic_by_loops(image[y0:y1, x0:x1] / 255, size)).permute(2, 0, 1)
    torch.testing.assert_close(on_device(plan, [image / 255.0])[0], expected, atol=1e-9, rtol=0)
    deep = image.astype(np.float32) / 255
    torch.testing.assert_close(on_host(plan, [deep])[0].double(), expected, atol=2e-6, rtol=0)
    theirs = np.asarray(Image.fromarray(image[y0:y1, x0:x1]).resize((size, size), Image.Resampling.BICUBIC))
    for run in EXECUTORS.values():
        apart = run(plan, [image])[0].permute(1, 2, 0) * 255 - torch.from_numpy(theirs.astype(np.float32))
        assert apart.abs().max() < 2.001


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_what_overshoots_is_clamped_before_it_is_blurred(sigma: float) -> None:
    image = np.zeros((40, 40, 1), dtype=np.float64)
    image[:, 20:] = 1.0
    plan = one_tile(Crop(size=24), image, bicubic=True, sigma=sigma)
    x0, y0, x1, y1 = plan.tiles.crop[0].tolist()
    radius = int(np.ceil(3 * sigma))
    clamped = torch.from_numpy(bicubic_by_loops(image[y0:y1, x0:x1], 24)).permute(2, 0, 1)
    expected = tv.gaussian_blur(clamped, [2 * radius + 1] * 2, [sigma] * 2)
    torch.testing.assert_close(on_device(plan, [image])[0], expected, atol=1e-6, rtol=0)
    found = on_host(plan, [image.astype(np.float32)])[0].double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_one_plan_may_have_tiles_of_both_interpolations() -> None:
    images = textured(2)
    plan = plan_for(Crop(size=32, augmentation=replace(PLAIN, blur=1.0)), images)
    mixed, cubic_alone = (
        replace(plan, tiles=replace(plan.tiles, bicubic=np.array(which))) for which in ([False, True], [True, True])
    )
    for run in EXECUTORS.values():
        torch.testing.assert_close(run(mixed, images)[0], run(plan, images)[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(run(mixed, images)[1], run(cubic_alone, images)[1], atol=1e-6, rtol=0)
        assert (run(plan, images)[1] - run(cubic_alone, images)[1]).abs().max() > 0.002


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    image = textured(1)[0].astype(np.float32) / 255
    plan = one_tile(Crop(size=48), image, sigma=sigma)
    radius = int(np.ceil(3 * sigma))  # where both executors cut the Gaussian
    expected = tv.gaussian_blur(cropped(plan, image), [2 * radius + 1] * 2, [sigma] * 2)
    for run in EXECUTORS.values():
        torch.testing.assert_close(run(plan, [image])[0], expected, atol=1e-5, rtol=0)
    wide = tv.gaussian_blur(cropped(plan, image), [23, 23], [sigma] * 2)  # the kernel that papers use at 224 px
    assert (on_device(plan, [image])[0] - wide).abs().max() < 0.005


CHANGES: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "darker": ({"brightness": 0.7}, lambda x: tv.adjust_brightness(x, 0.7)),
    "brighter": ({"brightness": 1.4}, lambda x: tv.adjust_brightness(x, 1.4)),
    "shifted down": ({"shift": -0.3}, lambda x: (x - 0.3).clamp(0, 1)),
    "shifted up": ({"shift": 0.4}, lambda x: (x + 0.4).clamp(0, 1)),
    "flatter": ({"contrast": 0.6}, lambda x: tv.adjust_contrast(x, 0.6)),
    "steeper": ({"contrast": 1.4, "contrast_last": True}, lambda x: tv.adjust_contrast(x, 1.4)),
    "paler": ({"saturation": 0.6, "saturation_last": True}, lambda x: tv.adjust_saturation(x, 0.6)),
    "richer": ({"saturation": 1.4}, lambda x: tv.adjust_saturation(x, 1.4)),
    "turned": ({"hue": 0.1}, lambda x: tv.adjust_hue(x, 0.1)),
    "turned back": ({"hue": -0.45}, lambda x: tv.adjust_hue(x, -0.45)),
    "gray": ({"gray": True}, lambda x: tv.rgb_to_grayscale(x, 3)),
    "solarized": ({"solarize": 128 / 255}, lambda x: tv.solarize(x, 128 / 255)),
}


@pytest.mark.parametrize(("changes", "theirs"), CHANGES.values(), ids=CHANGES)
def test_each_change_is_torchvisions(changes: dict[str, Any], theirs: Callable[[Tensor], Tensor]) -> None:
    image = textured(1, seed=4)[0].astype(np.float32) / 255
    plan = one_tile(Crop(size=48), image, **changes)
    expected = theirs(cropped(plan, image))
    assert (expected - cropped(plan, image)).abs().mean() > 0.01  # there is something to get wrong
    luma = 2e-4 if {"contrast", "saturation", "gray"} & set(changes) else 1e-5  # torchvision writes 0.2989 for 0.299
    torch.testing.assert_close(on_device(plan, [image])[0], expected, atol=luma, rtol=0)
    torch.testing.assert_close(on_host(plan, [image])[0], expected, atol=max(luma, 1e-4), rtol=0)


def chain(tiles: Tiles, tile: int, x: Tensor) -> Tensor:
    """torchvision's changes in the plan's order: each clamps, where the executors clamp once on each side of hue."""
    if tiles.sigma[tile] > 0:
        radius = int(np.ceil(3 * tiles.sigma[tile]))
        x = tv.gaussian_blur(x, [2 * radius + 1] * 2, [float(tiles.sigma[tile])] * 2)
    x = (tv.adjust_brightness(x, float(tiles.brightness[tile])) + float(tiles.shift[tile])).clamp(0, 1)
    for last in (False, True):
        if last:
            x = tv.adjust_hue(x, float(tiles.hue[tile]))
        if tiles.contrast_last[tile] == last:
            x = tv.adjust_contrast(x, float(tiles.contrast[tile]))
        if tiles.saturation_last[tile] == last:
            x = tv.adjust_saturation(x, float(tiles.saturation[tile]))
    if tiles.gray[tile]:
        x = tv.rgb_to_grayscale(x, 3)
    return tv.solarize(x, float(tiles.solarize[tile])) if tiles.solarize[tile] <= 1 else x


def chain_difference(low: float, high: float, seed: int, strong: Augmentation = STRONG) -> Tensor:
    """(4,) mean distances of the device executor from torchvision on images with values in [low, high]."""
    images = [(low + (high - low) * image / 255).astype(np.float32) for image in textured(4, seed=seed % 1000)]
    plan = plan_for(Crop(size=48, augmentation=replace(strong, jitter=1.0, flip=0.0)), images, seed=seed)
    theirs = []
    for tile, image in enumerate(images):
        alone = replace(plan, tiles=replace(plan.tiles, crop=plan.tiles.crop[tile : tile + 1]))
        theirs.append(chain(plan.tiles, tile, cropped(alone, image)))
    return (on_device(plan, images) - torch.stack(theirs)).abs().mean(dim=(1, 2, 3))


@given(seed=SEEDS)
def test_the_chain_of_changes_is_torchvisions_where_nothing_is_clamped(seed: int) -> None:
    assert chain_difference(0.3, 0.6, seed).max() < 2e-4


@given(seed=SEEDS)
def test_the_chain_of_changes_with_a_shift_is_torchvisions_where_nothing_is_clamped(seed: int) -> None:
    assert chain_difference(0.4, 0.6, seed, replace(SHIFTED, brightness=0.2)).max() < 2e-4


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("shift", [-0.25, 0.25])
def test_a_shift_adds_the_same_wherever_it_stands_among_the_four_changes(place: int, shift: float) -> None:
    """Where nothing is clamped; BYOL's code puts the four in a random order."""
    image = (0.4 + 0.2 * textured(1)[0] / 255).astype(np.float32)
    plan = one_tile(Crop(size=32), image, shift=shift, contrast=1.3, saturation=0.7, saturation_last=True, hue=0.1)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda x: tv.adjust_contrast(x, 1.3),
        lambda x: tv.adjust_hue(x, 0.1),
        lambda x: tv.adjust_saturation(x, 0.7),
    ]
    changes.insert(place, lambda x: x + shift)
    expected = cropped(plan, image)
    for change in changes:
        expected = change(expected)
    assert 0 < expected.min() < expected.max() < 1
    for run in EXECUTORS.values():
        torch.testing.assert_close(run(plan, [image])[0], expected, atol=2e-4, rtol=0)


def test_a_shift_moves_the_mean_of_a_view_twice_as_far_as_a_factor() -> None:
    """BYOL's U(-0.4, 0.4), added to photographs and clamped, against the same range of factors."""
    source = photos("train")
    images = [source.read(number * len(source) // 19) for number in range(19)] * 40
    plain = on_host(plan_for(Crop(size=16, augmentation=PLAIN), images), images)
    changes: dict[Literal["factor", "shift"], Callable[[Tensor, float], Tensor]] = {
        "factor": lambda view, u: view * (1 + u),
        "shift": lambda view, u: view + u,
    }
    moved = {}
    for mode, change in changes.items():
        jitter = replace(PLAIN, jitter=1.0, contrast=0.0, saturation=0.0, hue=0.0, brightness_mode=mode)
        changed = on_host(plan_for(Crop(size=16, augmentation=jitter), images), images)
        moved[mode] = float((changed - plain).mean(dim=(1, 2, 3)).abs().mean())
        expected = [
            float((change(plain, u).clamp(0, 1) - plain).mean(dim=(1, 2, 3)).abs().mean())
            for u in (np.arange(40) / 50 - 0.39).tolist()
        ]
        assert moved[mode] == pytest.approx(np.mean(expected), rel=0.1)
    assert moved["shift"] > 2 * moved["factor"]


def test_the_chain_of_changes_is_nearly_torchvisions_where_values_are_clamped() -> None:
    assert torch.cat([chain_difference(0.0, 1.0, seed) for seed in range(40)]).mean() < 0.005


def test_colors_are_left_alone_unless_there_are_three() -> None:
    image = textured(1, channels=5)[0]
    plan = one_tile(Crop(size=32), image, brightness=1.4, gray=True, solarize=0.5)
    plain = one_tile(Crop(size=32), image)
    for run in EXECUTORS.values():
        torch.testing.assert_close(run(plan, [image]), run(plain, [image]), atol=0, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("depth", [8, 32])
def test_cuda_renders_as_the_cpu_does(view: Composition, depth: int) -> None:
    images = textured(6)
    plan = plan_for(view, images)
    pixels = stack(images) if depth == 8 else stack(images).float() / 255
    there, here = (finish(view, plan, render(plan, x), UNCHANGED).pixels.cpu() for x in (pixels.cuda(), pixels))
    assert (there - here).abs().mean() < 0.004
    assert (there - here).abs().max() < 0.08
