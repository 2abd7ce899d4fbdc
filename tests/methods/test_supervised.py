"""Supervised training: cross-entropy, region by region."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import NO_DATA, PLAIN, exact_canvas, textured
from torch import Tensor
from torchvision.ops import roi_align

from smalti.errors import UserError
from smalti.methods.method import DataInfo, Progress
from smalti.methods.supervised import Supervised, SupervisedConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.montage import Montage
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition

BACKBONES = {
    "resnet": TimmBackbone(
        name="resnet18", stem="stride8", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    ),
    "vit": TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 4, "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3},
    ),
}
CLASSES = DataInfo(NO_DATA.normalize, ("ant", "bee", "cat"))
CROP = Crop(size=32, augmentation=PLAIN)
MONTAGES = [Montage(size=32, level=level, augmentation=PLAIN) for level in range(3)]
VIEWS: dict[str, list[Composition]] = {
    "one crop": [CROP],
    "crop and mosaic": [CROP, Mosaic(tile_size=16, max_shift=20, augmentation=PLAIN)],
    "montages": [*MONTAGES],
}
IMAGES = textured(16)
LABELS = torch.arange(16) % 3
START = Progress(step=0, total_steps=10, steps_per_epoch=5)


def make_canvases(views: list[Composition], labels: Tensor = LABELS) -> list[Canvas]:
    canvases = [exact_canvas(view, IMAGES, view=number) for number, view in enumerate(views)]
    return [replace(canvas, regions=canvas.regions.labeled(labels)) for canvas in canvases]


def make_method(backbone: str = "resnet", **settings: Any) -> Supervised:
    torch.manual_seed(0)
    config = SupervisedConfig(**{"region_size": 4, "channels": 8} | settings)
    method = config.build(BACKBONES[backbone].build(), CLASSES)
    return method.double()


def by_the_loop(method: Supervised, canvases: list[Canvas]) -> float:
    """The mean over the views and their canvases of the sum over the regions of weight times -log softmax."""
    loss = 0.0
    layer = (method.network.head if method.config.fpn else method.network.projector).layer  # type: ignore[union-attr]
    if method.config.fpn:  # all levels together, as in MCL
        counts = [len(canvas.pixels) for canvas in canvases]
        pyramid = method.network.maps(torch.cat([canvas.pixels for canvas in canvases]), 2)  # type: ignore[operator]
        parts = [of_level.split(counts) for of_level in pyramid]
    for number, canvas in enumerate(canvases):
        regions = canvas.regions
        if method.config.fpn:
            maps = parts[regions.level][number]
            pooled = maps.mean(dim=(2, 3))
        else:
            maps, pooled = method.network.backbone(canvas.pixels)
        of_view = []
        for n, k in torch.cartesian_prod(*map(torch.arange, regions.source.shape)).tolist():
            feature = pooled[n]
            if not regions.whole:
                box, scale = regions.boxes[n, k].double(), maps.shape[-1] / canvas.pixels.shape[-1]
                cells = roi_align(maps[n : n + 1], [box[None]], 4, scale, sampling_ratio=-1, aligned=True)
                feature = cells[0].mean(dim=(1, 2))
            scores = layer(feature)
            label = int(LABELS[regions.source[n, k]])
            below, smooth = sum(math.exp(score) for score in scores), method.config.label_smoothing
            loss_of_region = 0.0
            for c, score in enumerate(scores):
                target = (1 - smooth) * (c == label) + smooth / len(scores)
                loss_of_region -= target * math.log(math.exp(score) / below)
            of_view.append(float(regions.weight[n, k]) * loss_of_region)
        loss += sum(of_view) / len(canvas.pixels) / len(canvases)
    return loss


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_cross_entropy(backbone: str, views: list[Composition]) -> None:
    method, canvases = make_method(backbone), make_canvases(views)
    with torch.no_grad():
        expected = by_the_loop(method, canvases)
        step = method(canvases, START)
    assert float(step.loss) == pytest.approx(expected, abs=1e-6)
    assert {f"loss_view_{number}" for number in range(len(views))} < set(step.logs)


def test_labels_may_be_smoothed() -> None:
    method, canvases = make_method("resnet", label_smoothing=0.3), make_canvases(VIEWS["montages"])
    with torch.no_grad():
        assert float(method(canvases, START).loss) == pytest.approx(by_the_loop(method, canvases), abs=1e-6)


def test_with_an_fpn_each_montage_is_read_at_its_level() -> None:
    method, canvases = make_method(fpn=True, levels=3), make_canvases(VIEWS["montages"])
    with torch.no_grad():
        expected = by_the_loop(method, canvases)
        assert float(method(canvases, START).loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("backbone", "views", "settings"),
    [
        *((backbone, views, {}) for backbone in BACKBONES for views in VIEWS),
        ("resnet", "montages", {"fpn": True, "levels": 3}),
    ],
)
def test_everything_learns(backbone: str, views: str, settings: dict[str, Any]) -> None:
    method = make_method(backbone, **settings)
    method(make_canvases(VIEWS[views]), START).loss.backward()
    assert [name for name, parameter in method.named_parameters() if parameter.grad is None] == []
    assert method.momentum_pairs(START) == []
    assert method.encoder() is method.network.backbone


def test_it_learns_to_tell_classes_apart() -> None:
    method = make_method(fpn=True, levels=2)
    canvases = make_canvases(MONTAGES[:2])
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    before = method(canvases, START)
    for _ in range(10):
        optimizer.zero_grad()
        step = method(canvases, START)
        step.loss.backward()
        optimizer.step()
    assert step.loss < before.loss / 2
    assert step.logs["accuracy"] > 0.9


@torch.no_grad()
def test_an_image_without_a_class_has_no_loss() -> None:
    views = VIEWS["crop and mosaic"]
    some = torch.where(torch.arange(16) < 8, LABELS, -1 - LABELS)
    method, canvases = make_method().eval(), make_canvases(views, some)
    found = method(canvases, START).loss
    known = [
        replace(canvas, regions=replace(canvas.regions, weight=canvas.regions.weight * (canvas.regions.source < 8)))
        for canvas in make_canvases(views)
    ]
    assert float(found) == pytest.approx(float(method(known, START).loss), abs=1e-9)
    none = method(make_canvases(views, torch.full((16,), -1)), START).loss
    assert none == 0


def test_data_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match="without labels"):
        SupervisedConfig().build(BACKBONES["resnet"].build(), NO_DATA)
    with pytest.raises(UserError, match="without labels"):
        make_method()([exact_canvas(CROP, IMAGES)], START)


def test_views_that_do_not_fit_are_refused() -> None:
    SupervisedConfig().check([CROP])
    SupervisedConfig(fpn=True, levels=3).check(MONTAGES)
    with pytest.raises(UserError, match="no views"):
        SupervisedConfig().check([])
    with pytest.raises(UserError, match="views of level"):
        SupervisedConfig(fpn=True, levels=2).check(MONTAGES)


@pytest.mark.parametrize("settings", [{"levels": 0}, {"channels": 0}, {"region_size": 0}, {"label_smoothing": 1.5}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        SupervisedConfig(**settings)


def test_logits_are_float32_under_autocast() -> None:
    method = make_method().float()
    canvases = [replace(canvas, pixels=canvas.pixels.float()) for canvas in make_canvases(VIEWS["montages"])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(canvases, START)
    assert step.loss.dtype == torch.float32
