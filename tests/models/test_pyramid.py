"""Every level is read from its own map, and a region's features are those of its cell."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import PLAIN, exact_canvas, textured
from torch import Tensor

from smalti.errors import UserError
from smalti.models.backbone import Features
from smalti.models.pyramid import DenseHeadConfig, PyramidNetwork
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.montage import Montage
from smalti.views.mosaic import Mosaic

BACKBONES = {
    "resnet": TimmBackbone(
        name="resnet18", stem="stride8", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    ),
    "vit": TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 4, "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3},
    ),
    "swin": TimmBackbone(
        name="swin_tiny_patch4_window7_224",
        options={
            "patch_size": 2,
            "img_size": 32,
            "embed_dim": 8,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 2, 2),
            "window_size": 2,
        },
    ),
    "convnext": TimmBackbone(
        name="convnext_atto", options={"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "patch_size": 2}
    ),
}
STAGED = ["resnet", "swin", "convnext"]
COARSEST = {"resnet": 4, "vit": 8, "swin": 2, "convnext": 1}  # cells along a 32 px view
HEAD = DenseHeadConfig(channels=8, hidden=12, dim=6)
IMAGES = textured(16)
MOSAIC = Mosaic(tile_size=16, max_shift=0, augmentation=PLAIN)


def make_network(backbone: str = "resnet", levels: int = 3, channels: int = 8, **settings: Any) -> PyramidNetwork:
    """In float64, with weights large enough that embeddings differ."""
    torch.manual_seed(0)
    network = PyramidNetwork(
        BACKBONES[backbone].build(), HEAD, levels, channels, **{"region_size": COARSEST[backbone]} | settings
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def montage(level: int) -> Canvas:
    return exact_canvas(Montage(size=32, level=level, augmentation=PLAIN), IMAGES, view=level)


def features_of(network: PyramidNetwork, canvas: Canvas) -> Features:
    regions = canvas.regions
    maps = network.maps(canvas.pixels, regions.level)[regions.level]
    return network.cut([maps], [regions], canvas.pixels.shape[-1])[0]


def cell_of(maps: Tensor, canvas: Canvas, n: int, k: int) -> Tensor:
    """(C, r, r) the cells of a region on the map of its canvas, where its box falls onto whole cells."""
    scale = maps.shape[-1] / canvas.pixels.shape[-1]
    x0, y0, x1, y1 = (int(place * scale) for place in canvas.regions.boxes[n, k])
    return maps[n, :, y0:y1, x0:x1]


@pytest.mark.parametrize("levels", [1, 3, 4])
@pytest.mark.parametrize("backbone", STAGED)
def test_a_level_is_torchvisions_output_of_its_stage(backbone: str, levels: int) -> None:
    network = make_network(backbone, levels).eval()
    assert network.fpn is not None
    pixels = montage(0).pixels
    maps = network.backbone.pyramid(pixels)[-levels:]
    outputs = list(network.fpn(dict(zip("abcd", maps, strict=False))).values())  # finest first
    for level in range(levels):
        found = network.maps(pixels, level)[level]
        assert found.shape[-1] == COARSEST[backbone] * 2**level
        torch.testing.assert_close(found, outputs[-1 - level], atol=1e-9, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_an_fpn_the_last_map_is_resized(backbone: str) -> None:
    network = make_network(backbone, channels=0).eval()
    pixels = montage(0).pixels
    last = network.backbone(pixels).map
    torch.testing.assert_close(network.maps(pixels, 0)[0], last, atol=0, rtol=0)
    for level in (1, 2):
        size = (COARSEST[backbone] * 2**level,) * 2
        expected = F.interpolate(last, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(network.maps(pixels, level)[level], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("channels", [0, 8])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_regions_features_are_its_cell_cut_apart_before_the_head(level: int, channels: int) -> None:
    network = make_network(channels=channels).eval()
    canvas = montage(level)
    maps = network.maps(canvas.pixels, level)[level]
    with torch.no_grad():
        (found,) = network([canvas])
        assert found.shape == (16 // 4**level, 4**level, 6)
        features = features_of(network, canvas)
        assert features.map.shape[2:] == (4, 4)
        for n, k in torch.cartesian_prod(*map(torch.arange, canvas.regions.source.shape)).tolist():
            cell = cell_of(maps, canvas, n, k)
            row = n * 4**level + k
            torch.testing.assert_close(features.map[row], cell, atol=1e-9, rtol=0)
            torch.testing.assert_close(features.pooled[row], cell.mean(dim=(1, 2)), atol=1e-9, rtol=0)
            pooled = network.head.convs(cell[None]).mean(dim=(2, 3))
            torch.testing.assert_close(found[n, k], network.head.projector(pooled)[0], atol=1e-9, rtol=0)


def test_two_regions_of_a_whole_canvas_are_encoded_once() -> None:
    network, canvas = make_network(), montage(0)
    regions = replace(
        canvas.regions,
        source=canvas.regions.source.expand(-1, 2),
        boxes=canvas.regions.boxes.expand(-1, 2, -1),
        weight=canvas.regions.weight.expand(-1, 2) / 2,
    )
    twice = replace(canvas, regions=regions)
    assert len(features_of(network, twice).map) == 16
    torch.testing.assert_close(network([twice])[0], network([canvas])[0].expand(-1, 2, -1), atol=1e-9, rtol=0)


def test_a_mosaics_regions_are_read_from_the_coarsest_map() -> None:
    network = make_network(region_size=2).eval()
    canvas = exact_canvas(MOSAIC, IMAGES)
    maps = network.maps(canvas.pixels, 0)[0]
    features = features_of(network, canvas)
    for n, k in ((0, 0), (3, 2), (15, 3)):
        torch.testing.assert_close(features.map[4 * n + k], cell_of(maps, canvas, n, k), atol=1e-9, rtol=0)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize(
    ("backbone", "channels"), [*((name, 8) for name in STAGED), *((name, 0) for name in BACKBONES)]
)
def test_every_parameter_that_learns_gets_a_gradient(backbone: str, channels: int, levels: int) -> None:
    network = make_network(backbone, levels, channels)
    sum(z.pow(3).sum() for z in network([montage(level) for level in range(levels)])).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == ("model.head" not in name), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_head_reads_one_cell_without_its_neighbors() -> None:
    """What the dense head reads is one cell alone, though the backbone sees its neighbors."""
    network = make_network(channels=0).eval()
    canvas = montage(1)
    maps = network.maps(canvas.pixels, 1)[1].detach()
    network.maps = lambda images, finest: [maps, maps]  # type: ignore[method-assign]
    (before,) = network([canvas])
    maps[:, :, 4:, 4:] += 1  # the last cell of each canvas
    (after,) = network([canvas])
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-9, rtol=0)
    assert (after[:, 3] - before[:, 3]).abs().max() > 1e-3


@torch.no_grad()
def test_levels_that_are_not_embedded_are_seen_all_the_same() -> None:
    """Their canvases are part of the batch statistics, and nothing is computed beyond the finest level embedded."""
    canvases = [montage(0), montage(1), montage(2)]
    every = make_network()(canvases)
    coarsest = make_network()(canvases, levels=[0])
    assert len(coarsest) == 1
    torch.testing.assert_close(coarsest[0], every[0], atol=1e-9, rtol=0)
    assert (make_network()(canvases[:1])[0] - every[0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_order_of_canvases_of_several_sizes_is_kept() -> None:
    network = make_network().eval()
    crop, mosaic = (exact_canvas(view, IMAGES) for view in (Crop(size=16, augmentation=PLAIN), MOSAIC))
    canvases = [montage(0), crop, montage(1), mosaic]
    for together, canvas in zip(network(canvases), canvases, strict=True):
        torch.testing.assert_close(together, network([canvas])[0], atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("reads_all", [False, True])
def test_the_head_reads_the_cells_of_its_level_or_of_all(reads_all: bool) -> None:
    network, canvases = make_network(head_reads_all=reads_all), [montage(0), montage(1), montage(2)]
    seen: list[int] = []
    network.head.register_forward_pre_hook(lambda head, inputs: seen.append(len(inputs[0].map)))
    network(canvases)
    own = [16, 4 * 4, 1 * 16]
    assert seen == ([21 * 4**level for level in range(3)] if reads_all else own)


@pytest.mark.parametrize(("backbone", "levels"), [("vit", 2), ("resnet", 5), ("swin", 5)])
def test_an_fpn_needs_stages_of_halving_size(backbone: str, levels: int) -> None:
    with pytest.raises(UserError, match="stages of halving size"):
        make_network(backbone, levels)


def test_a_full_pyramid_has_the_names_that_torchvisions_detectors_have() -> None:
    names = set(make_network(levels=4).fpn.state_dict())  # type: ignore[union-attr]
    assert {f"{part}_blocks.{stage}.0.weight" for part in ("inner", "layer") for stage in range(4)} <= names


def test_embeddings_are_float32_under_autocast() -> None:
    network = make_network().float()
    canvas = montage(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (z,) = network([replace(canvas, pixels=canvas.pixels.float())])
    assert z.dtype == torch.float32
