"""BYOL's step against the sums of its paper and of MosRep's, one region at a time."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from by_hand import cos, features_of, mlp_by_hand
from helpers import NO_DATA, PLAIN
from test_moco import BACKBONES, COMPOSED, IMAGES, STANDARD, START, make_canvases
from torch import Tensor

from smalti.errors import UserError
from smalti.methods.byol import BYOL, BYOLConfig
from smalti.methods.method import Progress
from smalti.models.heads import ProjectorConfig
from smalti.models.momentum import update_targets
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition


def make_method(backbone: str = "resnet", **settings: Any) -> BYOL:
    """In float64, with weights large enough that embeddings differ, and a target network of its own."""
    torch.manual_seed(0)
    projector = ProjectorConfig(hidden=24, dim=12, norm=True)
    config = BYOLConfig(**{"projector": projector, "predictor_hidden": 20, "region_size": 3} | settings)
    method = config.build(BACKBONES[backbone].build(), NO_DATA).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def predict(method: BYOL, canvas: Canvas) -> list[tuple[int, float, Tensor]]:
    """Of every region: its image, its area and h(z)."""
    regions, rows = features_of(method.online.backbone, canvas)
    z = torch.stack(mlp_by_hand(method.online.projector.layers, rows))
    return [(*region, p) for region, p in zip(regions, mlp_by_hand(method.predictor, z), strict=True)]


def targets_of(method: BYOL, canvas: Canvas) -> dict[int, Tensor]:
    """z' of every image."""
    regions, rows = features_of(method.target.backbone, canvas)
    embeddings = mlp_by_hand(method.target.projector.layers, rows)
    return {image: z for (image, _), z in zip(regions, embeddings, strict=True)}


def mosrep_on_byol(method: BYOL, canvases: Sequence[Canvas], views: Sequence[Composition]) -> float:
    query, key, *composed = canvases
    of_query, of_key, count = targets_of(method, query), targets_of(method, key), len(IMAGES)
    loss = sum(2 - 2 * cos(p, of_key[image]) for image, _, p in predict(method, query)) / count
    loss += sum(2 - 2 * cos(p, of_query[image]) for image, _, p in predict(method, key)) / count
    for canvas, view in zip(composed, views, strict=True):
        regions = predict(method, canvas)
        crops = len(regions) // count  # M
        whole = (view.tile_size if isinstance(view, Mosaic) else view.canvas_size) ** 2
        for image in range(count):
            own = [(area, p) for source, area, p in regions if source == image]
            assert len(own) == crops
            for area, p in own:
                loss += math.sqrt(area / whole) * (2 - 2 * cos(p, of_key[image])) / crops / count
    return loss


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_byols_and_mosreps_on_it(backbone: str, composed: list[Composition]) -> None:
    method = make_method(backbone)
    canvases = make_canvases(composed)
    with torch.no_grad():
        expected = mosrep_on_byol(method, canvases, composed)
        loss, logs = method(canvases, START)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    parts = [value for name, value in logs.items() if name.startswith("loss")]
    assert len(parts) == 1 + len(composed)
    assert float(sum(parts)) == pytest.approx(expected, abs=1e-6)


def test_two_images_on_one_canvas_count_by_their_weights() -> None:
    """Mixed canvases are wholly one image and wholly another."""
    method = make_method()
    query, key, mixed = make_canvases([STANDARD])
    first, weight = mixed.regions, torch.tensor([[0.7, 0.3]]).expand(len(IMAGES), 2)
    source = torch.cat([first.source, first.source.flip(0)], dim=1)
    regions = replace(first, source=source, boxes=first.boxes.expand(-1, 2, -1), weight=weight)
    with torch.no_grad():
        found = method([query, key, Canvas(pixels=mixed.pixels, regions=regions)], START).logs["loss_composed_0"]
        of_key, expected = targets_of(method, key), 0.0
        for image, _, p in predict(method, mixed):
            for other, part in ((image, 0.7), (len(IMAGES) - 1 - image, 0.3)):
                expected += part * (2 - 2 * cos(p, of_key[other])) / len(IMAGES)
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_tells_one_images_target_from_anothers(backbone: str) -> None:
    method = make_method(backbone)
    first, second, mosaic = make_canvases(COMPOSED["four tiles"])
    dealt_wrongly = Canvas(pixels=second.pixels.roll(1, dims=0), regions=second.regions)
    with torch.no_grad():
        terms = [copy.deepcopy(method)([first, key, mosaic], START).logs for key in (second, dealt_wrongly)]
    for name in ("loss_standard", "loss_composed_0"):
        assert abs(terms[0][name] - terms[1][name]) > 1e-4


@pytest.mark.parametrize("projector", ["mlp", "conv"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_of_the_online_network_learns_and_none_of_the_target(backbone: str, projector: Any) -> None:
    method = make_method(backbone, projector=ProjectorConfig(kind=projector, hidden=24, dim=12, norm=True))
    method(make_canvases(COMPOSED["four tiles"]), START).loss.backward()
    for online in (method.online, method.predictor):
        for name, parameter in online.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_a_region_out_of_sight_has_no_part_in_the_loss() -> None:
    method = make_method()
    *standard, mosaic = make_canvases([Mosaic(tile_size=16, tiles=4, max_shift=32, alpha=0.3, augmentation=PLAIN)])
    hidden = mosaic.regions.weight == 0
    assert hidden.any()
    source = torch.where(hidden, mosaic.regions.source.roll(1), mosaic.regions.source)  # the target of another image
    other = replace(mosaic, regions=replace(mosaic.regions, source=source))
    losses = [copy.deepcopy(method)([*standard, canvas], START).loss.item() for canvas in (mosaic, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("step", [0, 1, 5, 9])
def test_the_targets_momentum_rises_along_a_cosine(step: int) -> None:
    """BYOL's section 3.3: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2."""
    method = make_method(ema_momentum=0.97)
    (pair,) = method.momentum_pairs(Progress(step=step, total_steps=10, steps_per_epoch=5))
    assert pair[:2] == (method.online, method.target)
    assert pair.momentum == pytest.approx(1 - (1 - 0.97) * (math.cos(math.pi * step / 10) + 1) / 2, abs=1e-12)
    assert method.encoder() is method.online.backbone


def test_a_new_method_starts_with_equal_networks() -> None:
    method = BYOLConfig().build(BACKBONES["resnet"].build(), NO_DATA)
    for ours, theirs in zip(method.online.parameters(), method.target.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_autocast_leaves_the_loss_in_32_bits() -> None:
    method = make_method().float()
    canvases = [
        Canvas(pixels=canvas.pixels.float(), regions=canvas.regions) for canvas in make_canvases(COMPOSED["four tiles"])
    ]
    exact = copy.deepcopy(method)(canvases, START).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(canvases, START)
    assert {value.dtype for value in (step.loss, *step.logs.values())} == {torch.float32}
    assert step.loss.item() == pytest.approx(exact, abs=0.05)


def test_a_state_dict_restores_everything() -> None:
    method, other = make_method(), make_method().train()
    canvases = make_canvases(COMPOSED["four tiles"])
    method(canvases, START).loss.backward()  # running statistics move
    update_targets(method.momentum_pairs(START))
    other.load_state_dict(method.state_dict())
    for name, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert method(canvases, START).loss.item() == other(canvases, START).loss.item()


@pytest.mark.parametrize("views", [[STANDARD], [STANDARD, Crop(count=2)], [Mosaic(), STANDARD], [STANDARD, Mosaic()]])
def test_views_that_byol_cannot_learn_from_are_refused(views: list[Composition]) -> None:
    with pytest.raises(UserError, match="two standard views"):
        BYOLConfig().check(views)


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
def test_any_further_composition_is_accepted(composed: list[Composition]) -> None:
    BYOLConfig().check([STANDARD, STANDARD, *composed])


@pytest.mark.parametrize(
    "settings", [{"ema_momentum": 1.1}, {"ema_momentum": -0.1}, {"predictor_hidden": 0}, {"region_size": 0}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        BYOLConfig(**settings)
