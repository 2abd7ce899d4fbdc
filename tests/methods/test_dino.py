"""DINO's step against its equations, written as the sums that the paper prints."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NO_DATA, PLAIN, UNCHANGED, exact_canvas, textured
from lightning_fabric import Fabric
from timm.layers import DropPath
from torch import nn
from torchvision.ops import roi_align

from smalti.errors import UserError
from smalti.methods.dino import DINO, DINOConfig
from smalti.methods.method import Progress
from smalti.models.network import Network
from smalti.models.prototypes import PrototypeHeadConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.schedules import cosine
from smalti.training.checkpoint import load_checkpoint, save_checkpoint
from smalti.training.loop import train_step
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.canvas import Canvas, Regions
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition

BACKBONES = {
    "resnet": TimmBackbone(name="resnet18", stem="stride8", options={"channels": [8, 8, 16, 16]}),
    "vit": TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 4, "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3},
    ),
    "swin": TimmBackbone(
        name="swin_tiny_patch4_window7_224",
        options={"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 2, "drop_path_rate": 0.0},
    ),
}
COMPOSED: dict[str, list[Composition]] = {
    "two crops": [],
    "multi-crop": [Crop(size=16, count=4, augmentation=PLAIN)],
    "mosaic": [Mosaic(tile_size=16, tiles=4, max_shift=20, augmentation=PLAIN)],
    "noise": [Mosaic(tile_size=16, tiles=4, max_shift=20, background="noise", augmentation=PLAIN)],
    "two compositions": [
        Mosaic(tile_size=32, tiles=1, max_shift=20, augmentation=PLAIN),
        Crop(size=16, count=2, augmentation=PLAIN),
    ],
}
STANDARD = Crop(size=32, augmentation=PLAIN)
IMAGES = textured(6)
HEAD = PrototypeHeadConfig(hidden=12, bottleneck=6, outputs=9)
# In the second epoch of five: the prototypes learn, and tau_t is half-way.
LATER = Progress(step=6, total_steps=25, steps_per_epoch=5)


def make_canvases(composed: Sequence[Composition] = ()) -> list[Canvas]:
    return [exact_canvas(view, IMAGES, view=number) for number, view in enumerate([STANDARD, STANDARD, *composed])]


def make_method(backbone: str = "resnet", **settings: Any) -> DINO:
    """In float64, with weights large enough that outputs differ, a teacher of its own and a center near its outputs."""
    torch.manual_seed(0)
    config = DINOConfig(**{"head": HEAD, "region_size": 3, "teacher_warmup_epochs": 3} | settings)
    method = config.build(BACKBONES[backbone].build(), NO_DATA).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        mean = method.teacher_outputs(*make_canvases()).mean(dim=(0, 1))
        method.center.copy_(mean + 0.05 * torch.randn_like(mean))
    return method


def say(network: Network, canvas: Canvas) -> list[tuple[int, float, list[float]]]:
    """Of every region: its image, its weight on a canvas of mean weight 1, and the network's outputs, one at a time."""
    features = network.backbone(canvas.pixels)
    scale = features.map.shape[-1] / canvas.pixels.shape[-1]
    head = network.projector
    found = []
    for n, k in torch.cartesian_prod(*map(torch.arange, canvas.regions.source.shape)).tolist():
        feature = features.pooled[n]
        if not canvas.regions.whole:
            box = canvas.regions.boxes[n, k].double()
            cells = roi_align(features.map[n : n + 1], [box[None]], 3, scale, sampling_ratio=-1, aligned=True)
            feature = cells[0].mean(dim=(1, 2))
        z = head.layers(feature[None])[0]
        outputs = [float(z @ w / z.norm() / w.norm()) for w in head.prototypes.weight]
        weight = float(canvas.regions.weight[n, k]) * canvas.regions.weight.shape[1]
        found.append((int(canvas.regions.source[n, k]), weight, outputs))
    return found


def softmax(values: Sequence[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def equation_3(method: DINO, canvases: Sequence[Canvas], tau_t: float) -> dict[str, float]:
    """The published sum over (teacher view, other crop) over its number, of every image, and the mean over images."""
    tau_s, center = method.config.student_temperature, method.center.tolist()
    teacher: list[dict[int, list[float]]] = [{}, {}]
    for view in (0, 1):
        for image, _, outputs in say(method.teacher, canvases[view]):
            teacher[view][image] = softmax([(g - c) / tau_t for g, c in zip(outputs, center, strict=True)])  # P_t
    student = [say(method.student, canvas) for canvas in canvases]

    def mean_over_pairs(image: int, crops_of: Sequence[list[tuple[int, float, list[float]]]]) -> float:
        total, pairs = 0.0, 0
        for t in (0, 1):
            for s, crops in enumerate(crops_of):
                for source, weight, outputs in crops:
                    if source == image and s != t:
                        p_s = softmax([g / tau_s for g in outputs])
                        total -= weight * sum(a * math.log(b) for a, b in zip(teacher[t][image], p_s, strict=True))
                        pairs += 1
        return total / pairs

    every = [p_t for view in teacher for p_t in view.values()]
    count = len(IMAGES)
    return {
        "loss": sum(mean_over_pairs(image, student) for image in range(count)) / count,
        "standard": sum(mean_over_pairs(image, student[:2]) for image in range(count)) / count,
        "entropy": -sum(sum(p * math.log(p) for p in p_t) for p_t in every) / len(every),
    }


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_equation_3_over_its_number_of_pairs(backbone: str, composed: list[Composition]) -> None:
    method = make_method(backbone)
    canvases = make_canvases(composed)
    with torch.no_grad():
        expected = equation_3(method, canvases, tau_t=0.055)
        loss, logs = method(canvases, LATER)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(expected["loss"], abs=1e-6)
    assert float(logs["loss_standard"]) == pytest.approx(expected["standard"], abs=1e-6)
    assert float(logs["teacher_entropy"]) == pytest.approx(expected["entropy"], abs=1e-6)
    assert float(logs["kl"]) == pytest.approx(expected["standard"] - expected["entropy"], abs=1e-6)
    # Of each teacher view: one other standard view, and every region.
    pairs = [1.0] + [canvas.regions.source.numel() / len(IMAGES) for canvas in canvases[2:]]
    terms = [logs["loss_standard"], *(logs[f"loss_composed_{number}"] for number in range(len(composed)))]
    whole = sum(count * float(term) for count, term in zip(pairs, terms, strict=True)) / sum(pairs)
    assert whole == pytest.approx(expected["loss"], abs=1e-6)


def test_several_images_on_a_whole_canvas_are_each_compared_with_their_own_targets() -> None:
    method = make_method()
    *standard, mixed = make_canvases([Crop(size=16, augmentation=PLAIN)])
    own = torch.arange(len(IMAGES))
    regions = Regions(
        source=torch.stack([own, own.flip(0)], dim=1),
        boxes=mixed.regions.boxes.expand(-1, 2, -1),
        weight=torch.tensor([0.7, 0.3]).expand(len(IMAGES), 2),
        whole=True,
    )
    canvases = [*standard, replace(mixed, regions=regions)]
    with torch.no_grad():
        expected = equation_3(method, canvases, tau_t=0.055)["loss"]
        assert float(method(canvases, LATER).loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_tells_one_images_targets_from_anothers(backbone: str) -> None:
    method = make_method(backbone)
    first, second, mosaic = make_canvases(COMPOSED["mosaic"])
    swapped = replace(mosaic, regions=replace(mosaic.regions, source=mosaic.regions.source.roll(1, dims=0)))
    with torch.no_grad():
        terms = [copy.deepcopy(method)([first, second, canvas], LATER).logs for canvas in (mosaic, swapped)]
    assert abs(terms[0]["loss_composed_0"] - terms[1]["loss_composed_0"]) > 1e-4


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("composed", ["two crops", "multi-crop", "mosaic"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_of_the_student_learns_and_none_of_the_teacher(backbone: str, composed: str, norm: bool) -> None:
    method = make_method(backbone, head=replace(HEAD, norm=norm, norm_last=False))
    method(make_canvases(COMPOSED[composed]), LATER).loss.backward()
    for name, parameter in method.student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_a_region_out_of_sight_has_no_part_in_the_loss() -> None:
    method = make_method()
    *standard, mosaic = make_canvases([Mosaic(tile_size=16, tiles=4, max_shift=32, alpha=0.3, augmentation=PLAIN)])
    hidden = mosaic.regions.weight == 0
    assert hidden.any()
    source = torch.where(hidden, mosaic.regions.source.roll(1), mosaic.regions.source)  # another image's targets
    other = replace(mosaic, regions=replace(mosaic.regions, source=source))
    losses = [copy.deepcopy(method)([*standard, canvas], LATER).loss.item() for canvas in (mosaic, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_center_moves_towards_the_mean_of_both_teacher_views_after_the_loss(momentum: float) -> None:
    method = make_method(center_momentum=momentum)
    before = method.center.clone()
    canvases = make_canvases(COMPOSED["mosaic"])
    with torch.no_grad():
        outputs = [outputs for canvas in canvases[:2] for _, _, outputs in say(method.teacher, canvas)]
        logs = method(canvases, LATER).logs
    mean = torch.tensor(outputs, dtype=torch.float64).mean(dim=0)
    torch.testing.assert_close(method.center, momentum * before + (1 - momentum) * mean, atol=1e-9, rtol=0)
    assert float(logs["center_norm"]) == pytest.approx(float(before.norm()), abs=1e-9)
    assert not method.center.requires_grad


@pytest.mark.parametrize("epochs", [0, 1, 2, 30])
def test_the_teachers_temperature_is_that_of_the_released_code(epochs: int) -> None:
    """`np.linspace(first, last, epochs)`, then `last`, read at the number of the epoch."""
    method = make_method(teacher_warmup_epochs=epochs)
    schedule = np.concatenate([np.linspace(0.04, 0.07, epochs), np.full(40 - epochs, 0.07)])
    for step in range(400):
        progress = Progress(step=step, total_steps=400, steps_per_epoch=10)
        assert method.teacher_temperature(progress) == pytest.approx(schedule[step // 10], abs=1e-15)


def test_the_teachers_temperature_arrives_in_the_last_epoch_of_its_warmup() -> None:
    method = make_method(teacher_warmup_epochs=30)
    found = [
        method.teacher_temperature(Progress(step=7 * epoch + 3, total_steps=700, steps_per_epoch=7))
        for epoch in (0, 1, 28, 29, 30, 99)
    ]
    assert found == pytest.approx([0.04, 0.04 + 0.03 / 29, 0.07 - 0.03 / 29, 0.07, 0.07, 0.07], abs=1e-15)


def test_the_teacher_follows_the_student_ever_more_slowly() -> None:
    method = make_method(ema_momentum=0.9)
    for step in (0, 5, 24):
        progress = replace(LATER, step=step)
        (pair,) = method.momentum_pairs(progress)
        assert pair == (method.student, method.teacher, cosine(0.9, 1.0, step / 25))
    assert method.encoder() is method.teacher.backbone


def test_a_new_method_starts_with_equal_networks_and_no_center() -> None:
    method = DINOConfig(head=HEAD).build(BACKBONES["vit"].build(), NO_DATA)
    for ours, theirs in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not method.center.any()


RECIPE = Recipe(
    name="tiny",
    views=(STANDARD, STANDARD),
    backbone=BACKBONES["vit"],
    method=DINOConfig(head=replace(HEAD, norm_last=False), freeze_epochs=2, region_size=3),
    optimizer=OptimizerConfig(
        name="adamw",
        weight_decay=0.04,
        final_weight_decay=0.4,
        decay_norm_and_bias=False,
        clip_norm=0.02,
        clip_each=True,
    ),
    epochs=5,
    batch_size=len(IMAGES),
    precision="32",
)


def begin(recipe: Recipe = RECIPE) -> TrainState:
    """Of two steps an epoch: the prototypes learn from step 4 on."""
    state = TrainState.begin(recipe, UNCHANGED, steps_per_epoch=2)
    state.method.double()
    return state


def canvases_of(step: int) -> list[Canvas]:
    return [exact_canvas(STANDARD, IMAGES, view=view, step=step, seed=step) for view in (0, 1)]


def last_layer(state: TrainState) -> list[nn.Parameter]:
    head = state.method.student.projector
    return [head.prototypes.weight, head.lengths]


def test_frozen_prototypes_are_trained_as_by_the_released_code() -> None:
    """Its loop: backward, clip each parameter, take the last layer's gradients away, AdamW, teacher."""
    ours, theirs = begin(), begin()
    method, optimizer = theirs.method, theirs.optimizer
    start = [parameter.detach().clone() for parameter in last_layer(ours)]
    for step in range(8):
        train_step(ours, canvases_of(step), step, Fabric(accelerator="cpu"))

        torch.manual_seed(0)  # nothing is random
        loss, _ = method(canvases_of(step), theirs.progress(step))
        optimizer.zero_grad()
        loss.backward()
        for parameter in method.student.parameters():
            nn.utils.clip_grad_norm_([parameter], RECIPE.optimizer.clip_norm)
        if step < 4:
            for parameter in last_layer(theirs):
                parameter.grad = None
        for group, decays in zip(optimizer.param_groups, (True, False), strict=True):
            group["lr"], group["weight_decay"] = theirs.learning_rate(step), decays * theirs.weight_decay(step)
        optimizer.step()
        with torch.no_grad():
            m = cosine(0.996, 1.0, step / 10)
            for fast, slow in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
                slow.lerp_(fast, 1 - m)

        for name, expected in method.state_dict().items():
            assert torch.equal(ours.method.state_dict()[name], expected), (step, name)
        unmoved = [torch.equal(parameter, kept) for parameter, kept in zip(last_layer(ours), start, strict=True)]
        assert unmoved == [step < 4] * 2
        counted = [ours.optimizer.state.get(parameter, {}).get("step", 0) for parameter in last_layer(ours)]
        assert counted == [max(0, step - 3)] * 2


@pytest.mark.parametrize("stopped_at", [3, 6])
def test_a_run_resumes_while_prototypes_are_frozen_and_after(stopped_at: int, tmp_path: Path) -> None:
    straight, fabric = begin(), Fabric(accelerator="cpu")
    for step in range(8):
        if step == stopped_at:
            straight.next_step = step
            save_checkpoint(tmp_path / "last.ckpt", straight)
        train_step(straight, canvases_of(step), step, fabric)
    resumed = begin(replace(RECIPE, seed=1))
    load_checkpoint(tmp_path / "last.ckpt", resumed)
    resumed.recipe = RECIPE
    assert (last_layer(resumed)[0] in resumed.optimizer.state) == (stopped_at > 4)
    for step in range(resumed.next_step, 8):
        train_step(resumed, canvases_of(step), step, fabric)
    for name, expected in straight.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[name], expected), name


def test_prototypes_are_frozen_where_gradients_accumulate() -> None:
    """A batch of two parts an epoch: the prototypes first move with the second batch."""
    method = replace(RECIPE.method, freeze_epochs=1)
    state = begin(replace(RECIPE, batch_size=2 * len(IMAGES), accumulate=2, method=method))
    kept = last_layer(state)[0].detach().clone()
    for step in range(4):
        train_step(state, canvases_of(step), step, Fabric(accelerator="cpu"))
        assert torch.equal(last_layer(state)[0], kept) == (step < 3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_student_drops_paths_and_the_teacher_does_not(backbone: str) -> None:
    config = BACKBONES[backbone]
    branches = {"zero_init_last": False} if backbone == "resnet" else {}
    config = replace(config, options=config.options | branches | {"drop_path_rate": 0.9})
    method = DINOConfig(head=HEAD).build(config.build(), NO_DATA)
    assert any(isinstance(module, DropPath) and module.drop_prob for module in method.student.modules())
    canvas = exact_canvas(STANDARD, IMAGES)
    canvas = replace(canvas, pixels=canvas.pixels.float())
    with torch.no_grad():
        assert torch.equal(method.teacher(canvas), method.teacher(canvas))
        assert not torch.equal(method.student(canvas), method.student(canvas))


def test_local_crops_of_96_px_beside_views_of_224() -> None:
    options = {"depth": 1, "embed_dim": 12, "num_heads": 2}
    method = DINOConfig(head=HEAD).build(TimmBackbone(name="vit_small_patch16_224", options=options).build(), NO_DATA)
    views = [Crop(), Crop(), Crop(size=96, count=2), Mosaic()]
    images = textured(4)
    canvases = [exact_canvas(view, images, view=number) for number, view in enumerate(views)]
    loss = method([replace(canvas, pixels=canvas.pixels.float()) for canvas in canvases], LATER).loss
    loss.backward()
    assert loss.isfinite()
    gradient = method.student.backbone.model.pos_embed.grad
    assert gradient.any(dim=-1).all()  # of every place, though it is interpolated for the crops


def test_the_state_dictionary_restores_everything() -> None:
    method, other = make_method(), DINOConfig(head=HEAD, region_size=3, teacher_warmup_epochs=3)
    canvases = make_canvases(COMPOSED["mosaic"])
    with torch.no_grad():
        method(canvases, LATER)  # moves the center and running statistics
    restored = other.build(BACKBONES["resnet"].build(), NO_DATA).double()
    restored.load_state_dict(method.state_dict())
    steps = [each(canvases, LATER) for each in (method, restored)]
    assert torch.equal(steps[0].loss, steps[1].loss)
    assert torch.equal(method.center, restored.center)
    assert "center" in method.state_dict()


def test_the_loss_keeps_its_precision_under_autocast() -> None:
    method = make_method("vit").float()
    canvases = [replace(canvas, pixels=canvas.pixels.float()) for canvas in make_canvases(COMPOSED["mosaic"])]
    exact = copy.deepcopy(method)(canvases, LATER).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(canvases, LATER)
    assert step.loss.dtype == torch.float32
    assert method.center.dtype == torch.float32
    assert step.loss.item() == pytest.approx(exact, rel=0.05)


def test_a_student_comes_to_say_what_its_teacher_says() -> None:
    method = make_method("vit", center_momentum=1.0)  # targets that stand still
    canvases = make_canvases(COMPOSED["mosaic"])
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=0.003)
    distances = []
    for _ in range(15):
        loss, logs = method(canvases, LATER)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distances.append(float(logs["kl"]))
    assert 0 <= distances[-1] < 0.7 * distances[0]


@pytest.mark.parametrize("views", [[STANDARD], [STANDARD, Crop(count=2)], [Mosaic(), STANDARD], [STANDARD, Mosaic()]])
def test_views_that_dino_cannot_learn_from_are_refused(views: list[Composition]) -> None:
    with pytest.raises(UserError, match="two standard views"):
        DINOConfig().check(views)


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
def test_any_further_composition_is_accepted(composed: list[Composition]) -> None:
    DINOConfig().check([STANDARD, STANDARD, *composed])


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_momentum": 1.1},
        {"center_momentum": -0.1},
        {"student_temperature": 0},
        {"teacher_temperature": 0},
        {"warmup_teacher_temperature": -1},
        {"teacher_warmup_epochs": -1},
        {"freeze_epochs": -1},
        {"region_size": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        DINOConfig(**settings)
