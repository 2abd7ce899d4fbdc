"""Features of regions: the right part of the right map."""

import numpy as np
import pytest
import torch
from helpers import PLAIN, make_rng
from torch import Tensor
from torchvision.ops import roi_align

from smalti.models.backbone import Backbone
from smalti.models.regions import pool_regions
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.canvas import Regions
from smalti.views.mosaic import Mosaic


def regions_of(boxes: Tensor) -> Regions:
    """(N, K, 4) boxes; the rest does not matter here."""
    source = torch.zeros(boxes.shape[:2], dtype=torch.long)
    return Regions(source=source, boxes=boxes, weight=torch.full(boxes.shape[:2], 1 / boxes.shape[1]), whole=False)


def test_features_are_roi_aligns_of_boxes_written_by_hand() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 8, 8, dtype=torch.float64)  # of 32 px canvases
    # 2 x 2 tiles of 16 px, moved by (3, -5) on the first canvas and by (-16, 0) on the second.
    first = [[3, 0, 19, 11], [19, 0, 32, 11], [3, 11, 19, 27], [19, 11, 32, 27]]
    second = [[0, 0, 0, 16], [0, 0, 16, 16], [0, 16, 0, 32], [0, 16, 16, 32]]
    numbered = [[canvas, *box] for canvas, boxes in enumerate([first, second]) for box in boxes]
    expected = roi_align(
        maps, torch.tensor(numbered, dtype=torch.float64), output_size=3, spatial_scale=1 / 4, aligned=True
    )
    features = pool_regions(maps, regions_of(torch.tensor([first, second]).float()), canvas_size=32, size=3)
    torch.testing.assert_close(features.map, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(features.pooled, expected.mean(dim=(2, 3)), atol=1e-9, rtol=0)


def test_the_boxes_of_a_moved_mosaic_are_those_written_by_hand() -> None:
    view = Mosaic(tile_size=16, tiles=4, max_shift=16, augmentation=PLAIN)
    plan = view.plan(np.tile([40, 40], (4, 1)), make_rng(4))
    for (dx, dy), boxes in zip(plan.offset.tolist(), plan.regions.boxes.int().tolist(), strict=True):
        corners = [(0, 0), (16, 0), (0, 16), (16, 16)]
        moved = [[x + dx, y + dy, x + dx + 16, y + dy + 16] for x, y in corners]
        assert boxes == [[min(max(edge, 0), 32) for edge in box] for box in moved]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_regions_of_one_color_return_it(size: int) -> None:
    colors = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * torch.arange(3)[:, None, None]  # (N, 2, 2)
    maps = colors.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)[:, None]  # (3, 1, 8, 8)
    boxes = torch.tensor([[0.0, 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [16, 16, 32, 32]]).expand(3, 4, 4)
    features = pool_regions(maps, regions_of(boxes), canvas_size=32, size=size)
    assert features.map.shape == (12, 1, size, size)
    torch.testing.assert_close(features.pooled[:, 0], colors.flatten())


def test_patch_tokens_of_a_vit_are_pooled_where_their_patches_lie() -> None:
    torch.manual_seed(0)
    config = TimmBackbone(name="vit_tiny_patch16_224", options={"patch_size": 4, "img_size": 32})
    backbone = Backbone(config.build()).eval()
    canvases = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = backbone.model.forward_features(canvases)  # class token, then patches row by row
        maps = backbone(canvases).map
    boxes = torch.tensor([[4.0, 8, 12, 16], [0, 0, 32, 32]]).expand(2, 2, 4)
    pooled = pool_regions(maps, regions_of(boxes), canvas_size=32, size=2).pooled.view(2, 2, -1)
    patches = [1 + 8 * row + column for row in (2, 3) for column in (1, 2)]
    torch.testing.assert_close(pooled[:, 0], tokens[:, patches].mean(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled[:, 1], tokens[:, 1:].mean(dim=1), atol=1e-5, rtol=0)


def test_a_region_that_left_the_canvas_gives_finite_values_and_gradients() -> None:
    maps = torch.randn(1, 4, 8, 8, requires_grad=True)
    boxes = torch.tensor([[[32.0, 0, 32, 16], [0, 32, 16, 32], [0, 0, 0, 0]]])
    features = pool_regions(maps, regions_of(boxes), canvas_size=32, size=7)
    assert features.pooled.isfinite().all()
    features.pooled.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_half_precision_maps_are_pooled_in_full_precision() -> None:
    maps = torch.randn(2, 4, 8, 8).bfloat16()
    boxes = torch.tensor([[3.0, 0, 19, 11]]).expand(2, 1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = pool_regions(maps, regions_of(boxes), canvas_size=32, size=3)
    exact = pool_regions(maps.float(), regions_of(boxes), canvas_size=32, size=3)
    assert features.map.dtype == features.pooled.dtype == torch.bfloat16
    assert torch.equal(features.pooled, exact.pooled.bfloat16())
