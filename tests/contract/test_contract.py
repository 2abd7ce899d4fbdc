"""What every method promises on every composition and every kind of backbone."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from contract_helpers import BATCH, COMPOSITIONS, METHODS, STANDARD, VARIANTS, System, classes_below, systems
from helpers import EIGHT_BIT, LabeledSource, run_in_processes, textured
from lightning_fabric import Fabric
from timm.layers import DropPath
from torch import Tensor

from smalti.distributed import rank, world_size
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress
from smalti.models.momentum import update_targets
from smalti.normalize import Normalize
from smalti.runs import RunFolder
from smalti.training.checkpoint import load_checkpoint, save_checkpoint
from smalti.training.fit import Engine, fit
from smalti.training.log import Log
from smalti.training.loop import train_step
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import canvases
from smalti.views.canvas import Canvas
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.plan import Composition

SOURCE = LabeledSource(textured(3 * BATCH, side=40), classes=3)
NORMALIZE = Normalize(EIGHT_BIT.mean, EIGHT_BIT.std)
DATA = DataInfo(NORMALIZE, SOURCE.class_names, len(SOURCE))
ORDER = BatchOrder(num_images=len(SOURCE), batch_size=BATCH, seed=3, block=4)
SYSTEMS = systems()
TOGETHER = [*SYSTEMS, *(System(name, "mosaic", "resnet") for name in VARIANTS)]
LATER = Progress(step=4, total_steps=6, steps_per_epoch=3, seed=5)  # no term waits any more, no layer is frozen


def views_of(compositions: Sequence[Composition], step: int) -> list[Canvas]:
    """Canvases in float64 of this process's share."""
    dataset = ViewDataset(SOURCE, compositions, ORDER, EIGHT_BIT, "device", rank=rank(), world_size=world_size())
    batch = dataset[step]
    assert batch.images is not None
    batch.images = batch.images.double() / 255
    return canvases(batch, compositions, NORMALIZE)


def make_method(system: System) -> Method:
    torch.manual_seed(0)
    built = system.method_config.build(system.backbone_config.build(), DATA).double()
    with torch.no_grad():  # weights that start at zero would let gradients stop before they arrive
        for parameter in built.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return built


def take_step(method: Method, views: Sequence[Canvas], progress: Progress) -> Tensor:
    """One step of plain gradient descent, over all processes; the loss."""
    torch.manual_seed(progress.step)  # for what drops paths
    loss = method(views, progress).loss
    loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * _mean(parameter.grad)
                parameter.grad = None
    update_targets(method.momentum_pairs(progress))
    return _mean(loss.detach())


def _mean(tensor: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor / world_size()


def test_every_method_and_every_composition_is_here() -> None:
    assert {type(config) for config in METHODS.values()} == classes_below(MethodConfig)
    assert {type(view) for view in (STANDARD, *COMPOSITIONS.values())} == classes_below(Composition)


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_gradients_reach_all_that_learns_and_nothing_else(system: System) -> None:
    method = make_method(system)
    targets = {id(p) for pair in method.momentum_pairs(LATER) for p in pair.target.parameters()}
    step = method(views_of(system.views, step=0), LATER)
    assert step.loss.ndim == 0
    assert step.loss.isfinite()
    assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in step.logs.values())
    step.loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.ndim == 1 or parameter.grad.any(), name  # a bias before a normalization has none
            assert id(parameter) not in targets, name
        else:
            assert parameter.grad is None, name
    assert any(p is q for p in method.parameters() for q in method.encoder().parameters())


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_a_checkpoint_in_the_middle_of_an_epoch_holds_everything(system: System, tmp_path: Path) -> None:
    """What goes on from it, after other weights and other buffers, ends the same to the bit."""
    straight = begin(recipe_of(system))
    train(straight, until=4)
    save_checkpoint(tmp_path / "last.ckpt", straight)
    train(straight, until=6)

    resumed = begin(recipe_of(system))
    with torch.no_grad():
        for tensor in resumed.method.state_dict().values():
            tensor += 1
    load_checkpoint(tmp_path / "last.ckpt", resumed)
    train(resumed, until=6)
    expected, found = straight.method.state_dict(), resumed.method.state_dict()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def recipe_of(system: System) -> Recipe:
    """Two epochs of three steps."""
    return Recipe(
        name=str(system),
        views=system.views,  # type: ignore[arg-type]
        backbone=system.backbone_config,
        method=system.method_config,
        epochs=2,
        batch_size=BATCH,
        block=4,
        precision="32",
    )


def begin(recipe: Recipe) -> TrainState:
    return TrainState.begin(recipe, NORMALIZE, ORDER.steps_per_epoch, SOURCE.class_names, len(SOURCE))


def train(state: TrainState, until: int) -> None:
    """The engine's steps without the engine."""
    dataset, fabric = ViewDataset(SOURCE, state.recipe.views, ORDER, EIGHT_BIT, "device"), Fabric(accelerator="cpu")
    for step in range(state.next_step, until):
        train_step(state, canvases(dataset[step], state.recipe.views, NORMALIZE), step, fabric)
        state.next_step = step + 1


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_as_if_it_had_not_been(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the engine: stopped in the middle of an epoch and continued from its own checkpoint."""
    recipe = recipe_of(System(method, "montage" if method == "mcl of two levels" else "mosaic", "resnet"))
    engine = Engine(workers=0, logger="none", log_every=1, checkpoint_every=1, score_every=-1)

    def run(name: str) -> dict[str, Any]:
        folder = RunFolder(tmp_path / name)
        state = fit(SOURCE, folder, recipe, EIGHT_BIT, engine=engine, export=lambda backbone: None, resume=True)
        return state.method.state_dict()

    straight = run("straight")
    log_step = Log.step

    def stopping(self: Log, state: TrainState, values: Any) -> None:
        if state.next_step == 5:  # the second of three steps of the second epoch; the fourth is saved
            raise StopError
        log_step(self, state, values)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "step", stopping)
        with pytest.raises(StopError):
            run("stopped")
    resumed = run("stopped")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def act() -> dict[str, Any]:
    """Two steps of every system on its share of the batch: their losses, and what the method then holds."""
    return {str(system): _train_together(system) for system in TOGETHER}


def _train_together(system: System) -> dict[str, Any]:
    method = make_method(system)
    for module in method.modules():
        if isinstance(module, DropPath):  # which images lose a path is each process's own chance
            module.drop_prob = 0.0
    losses = []
    for step in range(2):
        progress = Progress(step=step + 3, total_steps=6, steps_per_epoch=3, seed=5)
        losses.append(take_step(method, views_of(system.views, step), progress))
    state = method.state_dict()
    if getattr(system.method_config, "shuffle_bn_group", 0):  # split statistics are each process's own
        own = ("running_mean", "running_var", "num_batches_tracked")
        state = {key: value for key, value in state.items() if not key.endswith(own)}
    return {"losses": losses, "state": state}


@pytest.fixture(scope="module")
def alone_and_together() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (alone,) = run_in_processes(act, 1, timeout=900)
    return alone, run_in_processes(act, 2, timeout=900)


@pytest.mark.parametrize("system", map(str, TOGETHER))
def test_two_processes_do_what_one_does(system: str, alone_and_together: Any) -> None:
    alone, together = alone_and_together
    for one in together:
        for found, expected in zip(one[system]["losses"], alone[system]["losses"], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)
        for name, expected in alone[system]["state"].items():
            torch.testing.assert_close(one[system]["state"][name], expected, atol=1e-8, rtol=1e-6, msg=name)


def test_a_copy_trains_as_the_original_does() -> None:
    """Deep copies are what momentum networks are made by."""
    system = System("moco", "mosaic", "resnet")
    method, views = make_method(system), views_of(system.views, step=0)
    assert take_step(copy.deepcopy(method), views, LATER) == take_step(method, views, LATER)
