"""MCL's step against Eq. 2 and Fig. 3, written as the sums that the paper prints; one and two processes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import NO_DATA, PLAIN, exact_canvas, textured
from torch import Tensor, nn
from torchvision.ops import roi_align

from smalti.errors import UserError
from smalti.methods.mcl import MCL, MCLConfig
from smalti.methods.method import Progress
from smalti.models.backbone import Features
from smalti.models.pyramid import PyramidNetwork
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.montage import Montage
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition

BACKBONES = {
    "resnet": TimmBackbone(
        name="resnet18",
        stem="stride8",
        zero_init_last=False,
        options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    ),
    "vit": TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 8, "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3},
    ),
}
WEIGHTS = (0.5, 0.3, 0.2)
STANDARD = Crop(size=32, augmentation=PLAIN)
MONTAGES: list[Composition] = [
    STANDARD,
    STANDARD,
    Montage(size=32, level=1, augmentation=PLAIN),
    Montage(size=32, level=1, augmentation=PLAIN),
    Montage(size=32, level=2, repeats=2, augmentation=PLAIN),  # with 8 images a canvas shows each twice
    Montage(size=32, level=2, repeats=2, augmentation=PLAIN),
]
COMPOSED: dict[str, list[Composition]] = {
    "mosaic": [Mosaic(tile_size=16, max_shift=20, augmentation=PLAIN)],
    "crops and mosaic": [
        Crop(size=16, count=2, augmentation=PLAIN),
        Mosaic(tile_size=16, max_shift=20, augmentation=PLAIN),
    ],
}
MATCHINGS = ("largest", "same", "adjacent", "all")
IMAGES = textured(8)
START = Progress(step=0, total_steps=10, steps_per_epoch=5)


def make_canvases(views: Sequence[Composition] = MONTAGES) -> list[Canvas]:
    return [exact_canvas(view, IMAGES, view=number) for number, view in enumerate(views)]


def make_method(backbone: str = "resnet", **settings: Any) -> MCL:
    """In float64, with weights large enough that embeddings differ, and a target network of its own."""
    torch.manual_seed(0)
    small = {"level_weights": WEIGHTS, "channels": 8, "hidden": 16, "dim": 6, "region_size": 4, "temperature": 0.3}
    method = (
        MCLConfig(**{**small, "fpn": backbone != "vit", **settings})
        .build(BACKBONES[backbone].build(), NO_DATA)
        .double()
    )
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


Region = tuple[int, float, Tensor]  # image, weight, embedding


def maps_of(network: PyramidNetwork, pixels: Tensor, levels: int) -> list[Tensor]:
    """By level, the maps of all canvases of a side, once through backbone and FPN."""
    if network.fpn is None:
        last = network.backbone(pixels).map
        sizes = [last.shape[-1] * 2**level for level in range(levels)]
        return [F.interpolate(last, size, mode="bilinear", align_corners=False) for size in sizes]
    stages = network.backbone.pyramid(pixels)[-levels:]
    return list(network.fpn(dict(zip("abc", stages, strict=False))).values())[::-1]


def embed(network: PyramidNetwork, side: list[Canvas], config: MCLConfig) -> list[list[Tensor]]:
    """Of every canvas, the embeddings of its regions: the released code's forward, cell by cell."""
    embeddings: dict[int, list[Tensor]] = {number: [] for number in range(len(side))}
    for size in {canvas.pixels.shape[-1] for canvas in side}:
        group = [i for i, canvas in enumerate(side) if canvas.pixels.shape[-1] == size]
        maps = maps_of(network, torch.cat([side[number].pixels for number in group]), config.levels)
        for level in range(config.levels):
            cells, owners = [], []
            canvases = [(i, n) for i in group for n in range(len(side[i].pixels))]
            for place, (number, n) in enumerate(canvases):
                regions, of_canvas = side[number].regions, maps[level][place]
                if regions.level == level and regions.whole:
                    found = [of_canvas]
                elif regions.level == level:
                    scale = of_canvas.shape[-1] / size
                    boxes = [box[None].double() for box in regions.boxes[n]]
                    found = [roi_align(of_canvas[None], [b], 4, scale, -1, aligned=True)[0] for b in boxes]
                elif config.head_reads_all:
                    r = of_canvas.shape[-1] // 2**level
                    corners = [(y * r, x * r) for y in range(2**level) for x in range(2**level)]
                    found = [of_canvas[:, y : y + r, x : x + r] for y, x in corners]
                else:
                    found = []
                cells += found
                owners += [number if regions.level == level else None] * len(found)
            if any(owner is not None for owner in owners):
                batch = torch.stack(cells)
                rows = network.head(Features(map=batch, pooled=batch.mean(dim=(2, 3))))
                for owner, row in zip(owners, rows, strict=True):
                    if owner is not None:
                        embeddings[owner].append(row)
    return list(embeddings.values())


def regions_of(canvas: Canvas, rows: Any) -> list[Region]:
    sources, weights = canvas.regions.source.flatten().tolist(), canvas.regions.weight.flatten().tolist()
    return [(*each, v / v.norm()) for *each, v in zip(sources, weights, rows, strict=True)]


def equation_2(tau: float, u: Tensor, image: int, targets: dict[int, Tensor]) -> float:
    found = math.exp(float(u @ targets[image]) / tau)
    others = sum(math.exp(float(u @ v) / tau) for other, v in targets.items() if other != image)
    return -math.log(found / (found + others))


def by_the_paper(method: MCL, canvases: list[Canvas]) -> float:
    """Fig. 3 and Eq. 2: L_u for one side against the other's targets, and L_v for the other."""
    config = method.config
    levels = len(config.level_weights)
    figure_3 = {
        "largest": {level: [0] for level in range(levels)},
        "same": {level: [level] for level in range(levels)},
        "adjacent": {0: [1], 1: [0, 2], 2: [1]},
        "all": {level: [0, 1, 2] for level in range(levels)},
    }[config.matching]

    sides = [canvases[::2], canvases[1::2]]

    def targets(side: list[Canvas]) -> dict[int, dict[int, Tensor]]:
        found: dict[int, dict[int, Tensor]] = {}
        for canvas, rows in zip(side, embed(method.target, side, config), strict=True):
            regions = regions_of(canvas, rows)
            of_level = found.setdefault(canvas.regions.level, {})
            for image in [] if of_level else range(len(IMAGES)):
                mean = sum(v for source, _, v in regions if source == image)
                of_level[image] = mean / mean.norm()
        return found

    loss = 0.0
    for side, other in zip(sides, reversed(sides), strict=True):
        v = targets(other)
        for canvas, rows in zip(side, embed(method.online, side, config), strict=True):
            level = canvas.regions.level
            regions = regions_of(canvas, method.predictors[level](torch.stack(rows)))
            for matched in figure_3[level]:
                terms = [weight * equation_2(config.temperature, u, image, v[matched]) for image, weight, u in regions]
                scale = 2 * config.temperature * config.level_weights[level] / len(figure_3[level])
                loss += scale * sum(terms) / len(canvas.pixels)
    return loss


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_equation_2(backbone: str, matching: Any, reads_all: bool) -> None:
    """With the batch statistics of all levels together, the head's too where it reads all canvases."""
    method = make_method(backbone, matching=matching, head_reads_all=reads_all)
    canvases = make_canvases()
    with torch.no_grad():
        expected = by_the_paper(method, canvases)
        step = method(canvases, START)
    assert step.loss.dtype == torch.float64
    assert float(step.loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
def test_other_compositions_are_regions_of_level_0_of_their_side(composed: list[Composition]) -> None:
    method, canvases = make_method(level_weights=(0.7,)), make_canvases([STANDARD, STANDARD, *composed])
    with torch.no_grad():
        expected = by_the_paper(method, canvases)
        assert float(method(canvases, START).loss) == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_matchings_differ() -> None:
    canvases = make_canvases()
    losses = [round(float(make_method(matching=matching)(canvases, START).loss), 6) for matching in MATCHINGS]
    assert len(set(losses)) == 4


@torch.no_grad()
def test_batch_statistics_are_of_all_levels() -> None:
    """Other pixels on one level change the embeddings of another, and the head's statistics are a matter of choice."""
    canvases = make_canvases()
    changed = [*canvases[:2], *(replace(canvas, pixels=canvas.pixels.flip(-1)) for canvas in canvases[2:])]
    logs = [make_method()(views, START).logs for views in (canvases, changed)]
    assert abs(logs[0]["loss_level_0"] - logs[1]["loss_level_0"]) > 1e-6
    losses = [float(make_method(head_reads_all=reads)(canvases, START).loss) for reads in (False, True)]
    assert abs(losses[0] - losses[1]) > 1e-4
    evaluated = [float(make_method(head_reads_all=reads).eval()(canvases, START).loss) for reads in (False, True)]
    assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-12)


@torch.no_grad()
def test_weights_begin_as_in_the_released_code() -> None:
    method = MCLConfig(channels=64, hidden=512, dim=64).build(TimmBackbone(name="resnet18").build(), NO_DATA)
    for predictor in method.predictors:
        for layer in (layer for layer in predictor if isinstance(layer, nn.Linear)):
            assert float(layer.weight.std()) == pytest.approx(0.01, rel=0.05)
            assert abs(float(layer.weight.mean())) < 1e-3
            assert not layer.bias.any()
    for layer in (layer for layer in method.online.head.projector if isinstance(layer, nn.Linear)):
        assert float(layer.weight.std()) == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)
    for block in method.online.head.convs:
        assert float(block[0].weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    for block in (*method.online.fpn.inner_blocks, *method.online.fpn.layer_blocks):
        weight = block[0].weight
        bound = (6 / ((weight.shape[0] + weight.shape[1]) * weight[0, 0].numel())) ** 0.5
        assert 0.98 * bound < float(weight.abs().max()) <= bound


@torch.no_grad()
def test_a_level_weighs_what_it_is_said_to() -> None:
    canvases = make_canvases()
    step = make_method()(canvases, START)
    levels = [float(step.logs[f"loss_level_{level}"]) for level in range(3)]
    assert float(step.loss) == pytest.approx(
        2 * 0.3 * sum(w * loss for w, loss in zip(WEIGHTS, levels, strict=True)), abs=1e-9
    )
    assert 0 < step.logs["z_std"] < 1.5


@torch.no_grad()
@pytest.mark.parametrize("matching", MATCHINGS)
def test_the_sum_is_symmetric(matching: Any) -> None:
    """Exchanging the sides changes nothing."""
    method, canvases = make_method(matching=matching), make_canvases()
    exchanged = [canvases[number ^ 1] for number in range(len(canvases))]
    losses = [float(method(views, START).loss) for views in (canvases, exchanged)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@torch.no_grad()
def test_a_region_is_told_from_those_of_other_images() -> None:
    method, canvases = make_method(), make_canvases()
    mistaken = list(canvases)
    regions = canvases[2].regions
    mistaken[2] = replace(canvases[2], regions=replace(regions, source=(regions.source + 1) % 8))
    terms = [method(views, START).logs["loss_level_1"] for views in (canvases, mistaken)]
    assert abs(terms[0] - terms[1]) > 1e-4


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize(("backbone", "fpn"), [("resnet", True), ("resnet", False), ("vit", False)])
def test_all_that_is_online_learns_and_no_target_does(backbone: str, fpn: bool, matching: Any) -> None:
    method = make_method(backbone, matching=matching, fpn=fpn)
    method(make_canvases(), START).loss.backward()
    for name, parameter in [*method.online.named_parameters(), *method.predictors.named_parameters()]:
        assert parameter.grad is not None, name
    for name, parameter in method.predictors.named_parameters():
        assert parameter.grad.any(), name  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_the_target_follows_with_a_rising_momentum() -> None:
    method = make_method()
    for step, momentum in ((0, 0.99), (5, 0.995), (10, 1.0)):
        (pair,) = method.momentum_pairs(Progress(step=step, total_steps=10, steps_per_epoch=5))
        assert (pair.online, pair.target) == (method.online, method.target)
        assert pair.momentum == pytest.approx(momentum)
    assert method.encoder() is method.online.backbone


@torch.no_grad()
def test_a_method_restored_from_its_state_takes_the_same_step() -> None:
    method, canvases = make_method(), make_canvases()
    method(canvases, START)
    restored = make_method()
    restored.load_state_dict(method.state_dict())
    for each in (method.eval(), restored.eval()):
        assert float(each(canvases, START).loss) == float(method(canvases, START).loss)


@torch.no_grad()
def test_under_autocast_the_loss_is_of_float32() -> None:
    method = make_method().float()
    canvases = [replace(canvas, pixels=canvas.pixels.float()) for canvas in make_canvases()]
    exact = method(canvases, START).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(canvases, START).loss
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(exact), rel=0.02)


@pytest.mark.parametrize(
    ("views", "settings", "said"),
    [
        ([STANDARD], {"level_weights": (1.0,)}, "two standard views"),
        ([STANDARD, MONTAGES[2]], {"level_weights": (1.0, 1.0)}, "two standard views"),
        (MONTAGES[:4], {}, "views of level 0, 1"),
        (MONTAGES, {"level_weights": (0.5, 0.5)}, "views of level 0, 1, 2"),
        ([*MONTAGES[:4], MONTAGES[4]], {"matching": "same"}, "every level on both"),
    ],
)
def test_views_that_mcl_cannot_learn_from_are_refused(
    views: list[Composition], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        MCLConfig(**{"level_weights": WEIGHTS, **settings}).check(views)


def test_views_that_mcl_can_learn_from_are_accepted() -> None:
    for matching in MATCHINGS:
        MCLConfig(level_weights=WEIGHTS, matching=matching).check(MONTAGES)
    MCLConfig(level_weights=WEIGHTS).check(MONTAGES[:5])  # the largest views are on both sides
    for composed in COMPOSED.values():
        MCLConfig(level_weights=(1.0,)).check([STANDARD, STANDARD, *composed])


@pytest.mark.parametrize(
    "settings",
    [
        {"level_weights": ()},
        {"level_weights": (0.5, 0.0)},
        {"level_weights": (1.0,), "matching": "adjacent"},
        {"temperature": 0},
        {"ema_momentum": 1.1},
        {"channels": 0},
        {"hidden": 0},
        {"dim": 0},
        {"region_size": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        MCLConfig(**settings)
