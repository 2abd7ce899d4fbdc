"""What every composition promises.

Legend: B images, N canvases, K regions on each, L side of a canvas.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.testing.images import STATISTICS, Images
from smalti.views.batch import Batch, make_batch
from smalti.views.blocks import choose_block
from smalti.views.crops import Augmentation, Crop
from smalti.views.finish import finish
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.plan import Composition, Plan, Tiles
from smalti.views.render_device import render
from smalti.views.rng import ViewRNG


def check_composition(composition: Composition, images: int = 16) -> None:
    """Check that a composition's views are exact, whoever makes them, and show what their regions say.

    Args:
        composition: in the size in which it is cheap, 32 pixels say.
        images: of a batch, an even number.

    Raises:
        AssertionError: which says what was found and what a composition promises.

    Example:
        >>> from smalti.testing import check_composition
        >>> from smalti.views import Mosaic
        >>> check_composition(Mosaic(tile_size=16, max_shift=6))
    """
    size = composition.canvas_size
    assert composition.resized(2).canvas_size == 2 * size, f"resized(2): expected canvases of {2 * size} px"
    assert composition.resized(1) == composition, "resized(1): expected the same composition"

    block = choose_block(images // 2, [composition])
    composition.check_block(block)
    source = Images(images)
    order = BatchOrder(num_images=images, batch_size=images, seed=3, block=block)

    def batch(executor: Literal["host", "device"] = "host", rank: int = 0, ranks: int = 1) -> Batch:
        return ViewDataset(source, (composition,), order, STATISTICS, executor, rank, ranks)[0]

    whole = batch()
    pixels, plan = whole.pixels[0], whole.plans[0]
    _check_regions(composition, plan, images)
    assert torch.equal(batch().pixels[0], pixels), "the same batch twice: expected the same pixels; use rng alone"
    halves = torch.cat([batch(rank=rank, ranks=2).pixels[0] for rank in range(2)])
    assert torch.equal(halves, pixels), "two processes: expected the canvases that one makes, block by block"
    on_device = batch("device")
    assert on_device.images is not None
    apart = (render(on_device.plans[0], on_device.images) - pixels / 255).abs()
    assert apart.mean() < 0.004, f"views made on the device differ by {apart.mean():.3f} from those of the host"
    _check_content(composition, source.images[: 2 * block], block)


def _check_regions(composition: Composition, plan: Plan, images: int) -> None:
    regions, size = plan.regions, composition.canvas_size
    boxes, source = regions.boxes, regions.source
    assert plan.canvas_size == size, f"plan of {plan.canvas_size} px: expected canvas_size, {size}"
    count = plan.num_canvases, source.shape[1]
    for name, shape in (("source", count), ("boxes", (*count, 4)), ("weight", count)):
        found = tuple(getattr(regions, name).shape)
        assert found == shape, f"regions.{name} of shape {found}: expected {shape}"
    assert ((source >= 0) & (source < images)).all(), f"regions.source: expected positions in the batch of {images}"
    assert ((boxes >= 0) & (boxes <= size)).all(), f"regions.boxes: expected them within the canvas of {size} px"
    assert (boxes[..., 2:] >= boxes[..., :2]).all(), "regions.boxes: expected left, top, right, bottom"
    assert (regions.weight >= 0).all(), "regions.weight: expected 0 or more"
    assert (regions.weight.sum(dim=1) <= 1 + 1e-6).all(), "regions.weight: expected at most 1 over a canvas's regions"
    assert regions.level == composition.level, f"level {regions.level}: expected the composition's, {composition.level}"
    if regions.whole:
        assert (boxes == torch.tensor([0.0, 0.0, size, size])).all(), "whole regions: expected boxes of whole canvases"
    if composition.standard:
        assert regions.whole, "a standard view: expected one whole canvas an image"
        assert source.tolist() == [[image] for image in range(images)], "a standard view: expected the batch's order"


def _check_content(composition: Composition, images: Sequence[NDArray[np.uint8]], block: int) -> None:
    """Another picture in place of an image changes every region that is said to show it."""
    rng = ViewRNG(seed=0, epoch=0, step=0, view=0, images=np.arange(len(images)), first=0, block=block)
    plan = make_batch(images, (composition,), rng).plans[0]
    plan = replace(plan, tiles=_unchanged(plan))

    def show(dark: int) -> Tensor:
        """(N, C, L, L) of white images, one of them dark."""
        levels = [np.full_like(image, 40 if number == dark else 220) for number, image in enumerate(images)]
        batch = make_batch(levels, (composition,), rng, executor="device")
        assert batch.images is not None
        return finish(composition, plan, render(plan, batch.images), STATISTICS.normalize).pixels

    white = show(-1)
    for image in range(len(images)):
        changed = (show(image) != white).any(dim=1)  # (N, L, L)
        for canvas, region in (plan.regions.source == image).nonzero().tolist():
            left, top, right, bottom = plan.regions.boxes[canvas, region].round().int().tolist()
            shown = right > left and bottom > top and plan.regions.weight[canvas, region] > 0
            assert not shown or changed[canvas, top:bottom, left:right].any(), (
                f"region {region} of canvas {canvas}: expected image {image}, its source, to be seen there"
            )


def _unchanged(plan: Plan) -> Tiles:
    """The plan's tiles, cropped and nothing else."""
    plain = Crop(size=8, augmentation=Augmentation(flip=0, jitter=0, gray=0, blur=0))
    rng = ViewRNG(seed=0, epoch=0, step=0, view=0, images=np.arange(1), first=0, block=1)
    tile = plain.plan(np.array([[8, 8]]), rng).tiles
    same = {field.name: getattr(tile, field.name) for field in fields(tile) if field.name not in ("image", "crop")}
    return replace(plan.tiles, **{name: np.repeat(value, len(plan.tiles), axis=0) for name, value in same.items()})
