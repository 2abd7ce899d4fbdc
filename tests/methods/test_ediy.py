"""E-DIY's step against Eq. 3 to 7, one cell at a time."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import cos, mlp_by_hand
from helpers import NO_DATA, exact_canvas, textured
from test_byol import mosrep_on_byol
from test_moco import BACKBONES, COMPOSED, IMAGES, STANDARD, make_canvases
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.images.statistics import PixelStatistics
from smalti.methods.byol import BYOLConfig
from smalti.methods.ediy import EDIY, EDIYConfig
from smalti.methods.ediy_controls import OtherImages, OtherImagesConfig, RandomPairs, RandomPairsConfig
from smalti.methods.method import DataInfo, Progress
from smalti.models.backbone import Backbone
from smalti.models.checkpoints import load_encoder
from smalti.models.encoder import EncoderInfo, save_encoder
from smalti.models.heads import ProjectorConfig
from smalti.models.momentum import update_targets
from smalti.models.timm_backbone import TimmBackbone
from smalti.normalize import Normalize
from smalti.schedules import cosine
from smalti.views.canvas import Canvas
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition
from smalti.views.rng import field_key, uniform

OURS = Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
THEIRS = PixelStatistics(low=0.0, high=255.0, mean=(0.1, 0.2, 0.6), std=(0.4, 0.3, 0.2))
TEACHER = TimmBackbone(name="resnet18", stem="stride8", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 24]})
HEADS = {"projector": ProjectorConfig(hidden=24, dim=12, norm=True), "predictor_hidden": 20, "region_size": 3}
LATER = Progress(step=7, total_steps=20, steps_per_epoch=5, seed=3)
WEIGHTS = {
    "all": {},
    "uneven": {"diversity": 0.1, "invariance": 0.7, "byol": 0.4},
    "diversity": {"invariance": 0, "byol": 0},
    "invariance": {"diversity": 0, "byol": 0},
    "without byol": {"byol": 0},
    "without diversity": {"diversity": 0},
    "without invariance": {"invariance": 0},
    "byol": {"diversity": 0, "invariance": 0},
    "random pairs": {"config": RandomPairsConfig},
    "other images": {"config": OtherImagesConfig},
    "other images without byol": {"config": OtherImagesConfig, "invariance": 0, "byol": 0},
    "local predictor": {"local_predictor": True},
}


def shaken(module: nn.Module) -> nn.Module:
    """In float64, with weights large enough that embeddings differ; a teacher inside keeps its own."""
    torch.manual_seed(0)
    module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter += 0.1 * torch.randn_like(parameter) * (not name.startswith("teacher"))
    return module


def make_method(backbone: str = "resnet", config: type[EDIYConfig] = EDIYConfig, **settings: Any) -> EDIY:
    torch.manual_seed(0)
    built = config(**HEADS | {"warmup_epochs": 1} | settings).build(BACKBONES[backbone].build(), DataInfo(OURS))
    method = shaken(built)
    assert isinstance(method, EDIY)
    return method


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder file of other channels, for pixels normalized otherwise."""
    backbone = Backbone(TEACHER.build())
    shaken(backbone)
    backbone(torch.randn(8, 3, 32, 32, dtype=torch.float64))  # running statistics of its own
    info = EncoderInfo(backbone=TEACHER, pixels=THEIRS, image_size=32)
    return str(save_encoder(tmp_path_factory.mktemp("teacher"), backbone.float(), info))


def cells_of(maps: Tensor) -> list[list[Tensor]]:
    """Of every view the features of its cells, row by row."""
    _, _, height, width = maps.shape
    return [[each[:, y, x] for y in range(height) for x in range(width)] for each in maps]


def embed_cells(maps: Tensor, *heads: nn.Sequential) -> list[list[Tensor]]:
    views = cells_of(maps)
    rows = [cell for view in views for cell in view]
    for head in heads:
        rows = mlp_by_hand(head, torch.stack(rows))
    return [rows[start : start + len(views[0])] for start in range(0, len(rows), len(views[0]))]


def similarities(cells: list[Tensor], cell: Tensor) -> Tensor:
    return torch.stack([other / other.norm() for other in cells]) @ (cell / cell.norm())


def draw(field: str, view: int, image: int, cell: int) -> float:
    return float(uniform(LATER.seed, field_key(field), LATER.step, view, image, cell))


def byol_inside(method: EDIY) -> Any:
    """The parts of E-DIY that are BYOL's, by their names there."""
    branch = method.global_branch
    assert branch is not None
    return SimpleNamespace(
        online=SimpleNamespace(backbone=method.online, projector=branch.projector),
        target=SimpleNamespace(backbone=method.target, projector=branch.target_projector),
        predictor=branch.predictor,
    )


def equation_3(method: EDIY, canvases: Sequence[Canvas], composed: Sequence[Composition], teacher: str) -> float:
    config, loss = method.config, 0.0
    if config.byol:
        loss += config.byol * mosrep_on_byol(byol_inside(method), canvases, composed)
    if not (config.diversity or config.invariance):
        return loss
    standard = [canvas.pixels for canvas in canvases[:2]]
    seen, aimed = ([network(pixels).map for pixels in standard] for network in (method.online, method.target))
    local = method.local_branch
    assert local is not None
    predictor = [local.predictor] if config.local_predictor else []
    f = [embed_cells(maps, local.projector.layers, *predictor) for maps in seen]
    g = [embed_cells(maps, local.target_projector.layers) for maps in aimed]
    taught = [cells_of(maps) for maps in (taught_maps(standard, teacher) if teacher else aimed)]
    count, cells = len(IMAGES), len(f[0][0])
    for x, other in ((0, 1), (1, 0)):
        for i in range(count):
            weight = float(canvases[x].regions.weight[i].sum()) / count / cells
            for j in range(cells):
                d = int(similarities(taught[x][i], taught[x][i][j]).argmin())  # Eq. 4
                s = int(similarities(taught[other][i], taught[x][i][j]).argmax())  # Eq. 6
                if isinstance(method, RandomPairs):
                    d = (j + 1 + int(draw("different", x, i, j) * (cells - 1))) % cells
                    s = int(draw("similar", x, i, j) * cells)
                away = f[x][i][d]
                if isinstance(method, OtherImages):
                    o = (i + 1 + int(draw("other", x, i, j) * (count - 1))) % count
                    away = sum(g[x][o]) / cells
                loss += weight * config.diversity * cos(f[x][i][j], away)  # Eq. 5
                loss += weight * config.invariance * (1 - cos(f[x][i][j], g[other][i][s]))  # Eq. 7
    return loss


def taught_maps(standard: list[Tensor], teacher: str) -> list[Tensor]:
    """What the teacher says of pixels standardized its way, channel by channel."""
    backbone = load_encoder(teacher).backbone.double()
    maps = []
    for pixels in standard:
        channels = [
            (pixels[:, c] * OURS.std[c] + OURS.mean[c] - THEIRS.mean[c]) / THEIRS.std[c] for c in range(len(OURS.mean))
        ]
        maps.append(backbone(torch.stack(channels, dim=1)).map)
    return maps


def check_loss(method: EDIY, composed: Sequence[Composition] = (), teacher: str = "") -> None:
    canvases = make_canvases(composed)
    with torch.no_grad():
        expected = equation_3(method, canvases, composed, teacher)
        step = method(canvases, LATER)
    assert step.loss.dtype == torch.float64
    assert float(step.loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", WEIGHTS.values(), ids=WEIGHTS)
def test_the_loss_is_equation_3_for_every_weight_and_control(settings: dict[str, Any]) -> None:
    check_loss(make_method(**settings))


@pytest.mark.parametrize("composed", [COMPOSED["four tiles"], COMPOSED["multi-crop"]], ids=["mosaic", "multi-crop"])
def test_further_canvases_enter_by_byols_term(composed: list[Composition]) -> None:
    check_loss(make_method(byol=0.5), composed)


def test_the_loss_is_equation_3_for_a_vision_transformer() -> None:
    check_loss(make_method("vit"))


@pytest.mark.parametrize("settings", [{}, {"byol": 0}], ids=["all", "without byol"])
def test_a_teacher_ranks_the_cells(settings: dict[str, Any], teacher: str) -> None:
    check_loss(make_method(teacher=teacher, **settings), teacher=teacher)


def test_images_count_by_the_weight_of_their_canvas() -> None:
    method = make_method(byol=0)
    canvases = make_canvases()
    weight = torch.linspace(0, 1.5, 2 * len(IMAGES)).view(-1, 2)
    canvases[0] = replace(canvases[0], regions=replace(canvases[0].regions, weight=weight))
    with torch.no_grad():
        assert float(method(canvases, LATER).loss) == pytest.approx(equation_3(method, canvases, (), ""), abs=1e-6)


def test_the_teacher_decides(teacher: str) -> None:
    losses = {
        make_method(byol=0, **settings)(make_canvases(), LATER).loss.item() for settings in ({}, {"teacher": teacher})
    }
    assert len(losses) == 2


@pytest.mark.parametrize("progress", [replace(LATER, step=0), LATER], ids=["warm-up", "later"])
@pytest.mark.parametrize("settings", WEIGHTS.values(), ids=WEIGHTS)
def test_every_online_parameter_gets_a_gradient_and_no_other(settings: dict[str, Any], progress: Progress) -> None:
    method = make_method(**settings)
    method(make_canvases(), progress).loss.backward()
    online = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert not [name for name in online if "target" in name or name.startswith("teacher.")]
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (name in online), name
        if progress is LATER and name in online:
            assert parameter.grad.any(), name


def test_a_vision_transformer_learns_from_its_patches_alone() -> None:
    method = make_method("vit", byol=0)
    method(make_canvases(), LATER).loss.backward()
    for name, parameter in method.online.named_parameters():
        assert parameter.grad is not None, name


def test_weights_of_the_pooled_feature_alone_get_a_gradient_too() -> None:
    options = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}  # a last normalization that the map does not pass
    config = EDIYConfig(**HEADS, byol=0, warmup_epochs=0)
    method = config.build(TimmBackbone(name="convnext_atto", options=options).build(), NO_DATA).double()
    method(make_canvases(), LATER).loss.backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("settings", [{}, {"byol": 0}], ids=["own", "without byol"])
def test_only_the_runs_own_teacher_needs_a_warm_up(settings: dict[str, Any], teacher: str) -> None:
    canvases = make_canvases()
    for given in [settings] if settings else [settings, {"teacher": teacher}]:
        method = make_method(**given, warmup_epochs=1.4)
        for step, begun in ((0, False), (6, False), (7, True)):
            with torch.no_grad():
                loss, logs = copy.deepcopy(method)(canvases, replace(LATER, step=step))
            local = logs["loss_diversity"] + logs["loss_invariance"]
            expected = logs.get("loss_byol", 0) + (begun or bool(given)) * local
            assert float(loss) == pytest.approx(float(expected), abs=1e-9)


def test_a_teacher_stays_as_it_is(teacher: str) -> None:
    method = make_method(teacher=teacher)
    assert method.teacher is not None
    method.train()
    before = copy.deepcopy(method.teacher.state_dict())
    method(make_canvases(), LATER).loss.backward()
    update_targets(method.momentum_pairs(LATER))
    assert method.training
    assert not any(module.training for module in method.teacher.modules())
    for name, value in method.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_projector_has_a_target() -> None:
    method = make_method(ema_momentum=0.97)
    pairs = method.momentum_pairs(LATER)
    assert pairs[0][:2] == (method.online, method.target)
    for branch, pair in zip((method.global_branch, method.local_branch), pairs[1:], strict=True):
        assert branch is not None
        assert pair[:2] == (branch.projector, branch.target_projector)
    assert {pair.momentum for pair in pairs} == {cosine(0.97, 1, 7 / 20)}
    assert method.encoder() is method.online
    assert len(make_method(diversity=0, invariance=0).momentum_pairs(LATER)) == 2
    assert len(make_method(byol=0).momentum_pairs(LATER)) == 2


def test_nothing_is_kept_that_no_term_reads() -> None:
    def heads(**settings: Any) -> set[str]:
        names = [name.split(".") for name, _ in make_method(**settings).named_parameters() if "_branch" in name]
        return {f"{branch}.{head}" for branch, head, *_ in names}

    of_global = {f"global_branch.{head}" for head in ("projector", "target_projector", "predictor")}
    of_local = {f"local_branch.{head}" for head in ("projector", "target_projector")}
    assert heads() == of_global | of_local
    assert heads(byol=0) == of_local
    assert heads(diversity=0, invariance=0) == of_global
    assert heads(local_predictor=True) == of_global | of_local | {"local_branch.predictor"}


@pytest.mark.parametrize("settings", [{}, {"byol": 0}, {"config": OtherImagesConfig}])
def test_a_state_dict_restores_everything(settings: dict[str, Any], teacher: str) -> None:
    if not settings:
        settings = {"teacher": teacher}
    method, other = make_method(**settings), make_method(**settings)
    method(make_canvases(), LATER).loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.05
    update_targets(method.momentum_pairs(LATER))
    other.load_state_dict(method.state_dict())
    assert other(make_canvases(), LATER).loss.item() == method(make_canvases(), LATER).loss.item()


def test_random_pairs_differ_between_steps_and_views() -> None:
    losses = set()
    for step in (1, 2):
        logs = make_method(config=RandomPairsConfig)(make_canvases(), replace(LATER, step=step)).logs
        losses |= {logs["loss_diversity"].item(), logs["loss_invariance"].item()}
    assert len(losses) == 4


def test_autocast_leaves_the_loss_in_32_bits(teacher: str) -> None:
    method = make_method(teacher=teacher).float()
    canvases = [Canvas(pixels=canvas.pixels.float(), regions=canvas.regions) for canvas in make_canvases()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(canvases, LATER)
    assert {value.dtype for value in (step.loss, *step.logs.values())} == {torch.float32}


def test_invariance_alone_makes_cells_alike() -> None:
    """Table 1: without R-DEM and BYOL the model collapses; the log shows it."""
    spreads = [spread_after(12, **weights) for weights in ({}, WEIGHTS["invariance"])]
    assert spreads[0] > 0.7
    assert spreads[1] < 0.5


def spread_after(steps: int, **weights: Any) -> float:
    torch.manual_seed(0)
    config = EDIYConfig(**HEADS, ema_momentum=0.9, warmup_epochs=0, **weights)
    method = config.build(BACKBONES["resnet"].build(), NO_DATA)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    images = textured(16)
    for step in range(steps):
        exact = [exact_canvas(STANDARD, images, view=view, step=step, seed=step) for view in range(2)]
        progress = Progress(step=step, total_steps=200, steps_per_epoch=10)
        loss, logs = method([replace(canvas, pixels=canvas.pixels.float()) for canvas in exact], progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_targets(method.momentum_pairs(progress))
    return float(logs["cell_std"])


@pytest.mark.parametrize("views", [[STANDARD], [Mosaic(), STANDARD]])
def test_views_that_ediy_cannot_learn_from_are_refused(views: list[Composition]) -> None:
    with pytest.raises(UserError, match="two standard views"):
        EDIYConfig().check(views)


def test_further_views_need_byols_term() -> None:
    views = [STANDARD, STANDARD, Mosaic()]
    EDIYConfig().check(views)
    EDIYConfig(byol=0).check(views[:2])
    with pytest.raises(UserError, match="byol 0"):
        EDIYConfig(byol=0).check(views)


@pytest.mark.parametrize(
    "settings",
    [
        {"diversity": -1},
        {"diversity": 0, "invariance": 0, "byol": 0},
        {"warmup_epochs": -1},
        {"ema_momentum": 2},
        {"predictor_hidden": 0},
        {"region_size": 0},
        {"teacher": "encoder.safetensors", "diversity": 0, "invariance": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        EDIYConfig(**settings)


def test_random_pairs_have_no_teacher_and_wait_for_none() -> None:
    assert RandomPairsConfig().warmup_epochs == 0
    with pytest.raises(UserError, match="no teacher"):
        RandomPairsConfig(teacher="encoder.safetensors")


def test_a_teacher_that_does_not_fit_is_refused(teacher: str, tmp_path: Path) -> None:
    config = EDIYConfig(**HEADS, teacher=teacher)
    with pytest.raises(UserError, match="stride 8"):
        config.build(TimmBackbone(name="resnet18", stem="stride16", options=TEACHER.options).build(), DataInfo(OURS))
    gray = TimmBackbone(name="resnet18", stem="stride8", in_channels=1, options=TEACHER.options)
    with pytest.raises(UserError, match="3 channels"):
        config.build(gray.build(), DataInfo(Normalize((0.5,), (0.2,))))
    with pytest.raises(UserError, match="no file"):
        replace(config, teacher=str(tmp_path / "missing.pth")).build(BACKBONES["resnet"].build(), DataInfo(OURS))


def test_byols_settings_are_byols() -> None:
    ours, theirs = EDIYConfig(), BYOLConfig()
    assert (ours.projector, ours.predictor_hidden, ours.ema_momentum) == (
        theirs.projector,
        theirs.predictor_hidden,
        theirs.ema_momentum,
    )
