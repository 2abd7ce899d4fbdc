"""What every method promises on every composition and every kind of backbone."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from contract_helpers import (
    BACKBONES,
    BATCH,
    COMPOSITIONS,
    METHODS,
    STANDARD,
    TOGETHER,
    backbone_for,
    classes_in,
    method_for,
    systems,
)
from helpers import EIGHT_BIT, LabelledSource, run_in_processes, textured
from torch import Tensor

from smalti.distributed import rank, world_size
from smalti.methods.method import DataInfo, Method, Progress
from smalti.models.momentum import update_targets
from smalti.runs import RunFolder
from smalti.training.callbacks import Logging
from smalti.training.fit import Engine, fit
from smalti.training.recipe import AnyComposition, AnyMethod, Recipe
from smalti.views.canvas import Canvas
from smalti.views.finish import Normalisation
from smalti.views.loader import BatchOrder, ViewDataset, canvases
from smalti.views.plan import Composition

SOURCE = LabelledSource(textured(3 * BATCH, side=40), classes=3)
NORMALISATION = Normalisation(EIGHT_BIT.mean, EIGHT_BIT.std)
DATA = DataInfo(NORMALISATION, SOURCE.class_names)
ORDER = BatchOrder(num_images=len(SOURCE), batch_size=BATCH, seed=3, block=4)
SYSTEMS = systems()
COMPOSED = {"mcl of two levels": "montage"}  # mosaics for all others


def views_of(compositions: Sequence[Composition], step: int, order: BatchOrder = ORDER) -> list[Canvas]:
    """Canvases in float64 of this process's share."""
    dataset = ViewDataset(SOURCE, compositions, order, EIGHT_BIT, "device", rank=rank(), world_size=world_size())
    batch = dataset[step]
    assert batch.images is not None
    batch.images = batch.images.double() / 255
    return canvases(batch, compositions, NORMALISATION)


def make_method(method: str, backbone: str) -> Method:
    torch.manual_seed(0)
    built = method_for(method, backbone).build(backbone_for(method, backbone), DATA).double()
    with torch.no_grad():  # weights that start at zero would let gradients stop before they arrive
        for parameter in built.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return built


def take_step(method: Method, views: Sequence[Canvas], step: int, rate: float = 0.01) -> Tensor:
    """One step of plain gradient descent."""
    progress = Progress(step=step, total_steps=6, steps_per_epoch=3, seed=5)
    torch.manual_seed(step)  # for what drops paths
    loss = method(views, progress).loss
    loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    update_targets(method.momentum_pairs(progress))
    return loss.detach()


def test_every_method_and_every_composition_is_here() -> None:
    assert {type(config) for config in METHODS.values()} == classes_in(AnyMethod)
    assert {type(view) for view in (STANDARD, *COMPOSITIONS.values())} == classes_in(AnyComposition)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("method", "composition"), SYSTEMS)
def test_two_steps(method: str, composition: str, backbone: str) -> None:
    """The loss is finite, every online parameter gets a gradient, no target does, and the state can be restored."""
    built = make_method(method, backbone)
    compositions = SYSTEMS[method, composition]
    targets = {id(p) for pair in built.momentum_pairs(LATER) for p in pair.target.parameters()}

    views = views_of(compositions, step=0)
    step = built(views, LATER)
    assert step.loss.ndim == 0
    assert step.loss.isfinite()
    assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in step.logs.values())
    step.loss.backward()
    for name, parameter in built.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.ndim == 1 or parameter.grad.any(), name  # a bias before a normalisation has none
            assert id(parameter) not in targets, name
        else:
            assert parameter.grad is None, name
    assert any(p is q for p in built.parameters() for q in built.encoder().parameters())
    built.zero_grad()

    other = make_method(method, backbone)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    other.load_state_dict(built.state_dict())
    second = views_of(compositions, step=1)
    assert take_step(built, second, step=1) == take_step(other, second, step=1)


LATER = Progress(step=4, total_steps=6, steps_per_epoch=3, seed=5)  # no term waits any more, no layer is frozen


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_as_if_it_had_not_been(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of an epoch and continued, every weight and buffer is the same to the bit."""
    recipe = Recipe(
        name=method,
        views=SYSTEMS[method, COMPOSED.get(method, "mosaic")],
        backbone=backbone_for(method, "resnet"),
        method=METHODS[method],  # type: ignore[arg-type]
        epochs=2,
        batch_size=BATCH,
        block=4,
        precision="32",
    )
    engine = Engine(workers=0, logger="none", log_every=1, checkpoint_every=1, score_every=-1)

    def train(name: str) -> dict[str, Any]:
        run = RunFolder(tmp_path / name)
        module = fit(SOURCE, run, recipe, EIGHT_BIT, engine=engine, export=lambda backbone: None, resume=True)
        return module.method.state_dict()

    straight = train("straight")
    end = Logging.on_train_batch_end

    def stopping(self: Logging, trainer: Any, module: Any, *rest: Any) -> None:
        if module.next_step == 5:  # the second of three steps of the second epoch; the fourth is saved
            raise StopError
        end(self, trainer, module, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Logging, "on_train_batch_end", stopping)
        with pytest.raises(StopError):
            train("stopped")
    resumed = train("stopped")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def act() -> dict[str, Any]:
    """Two steps of every method on its share of the batch: their losses, and what the method then holds."""
    return {name: _train_together(name) for name in TOGETHER}


def _train_together(name: str) -> dict[str, Any]:
    method = make_method(name, "resnet")
    losses = []
    for step in range(2):
        views = views_of(SYSTEMS[name.partition(",")[0], COMPOSED.get(name, "mosaic")], step)
        progress = Progress(step=step + 3, total_steps=6, steps_per_epoch=3, seed=5)
        loss = method(views, progress).loss
        loss.backward()
        losses.append(_mean(loss.detach()))
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * _mean(parameter.grad)
                    parameter.grad = None
        update_targets(method.momentum_pairs(progress))
    state = method.state_dict()
    if getattr(TOGETHER[name], "norm_group", 0):  # split statistics are each process's own
        own = ("running_mean", "running_var", "num_batches_tracked")
        state = {key: value for key, value in state.items() if not key.endswith(own)}
    return {"losses": losses, "state": state}


def _mean(tensor: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor / world_size()


@pytest.fixture(scope="module")
def alone_and_together() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (alone,) = run_in_processes(act, 1)
    return alone, run_in_processes(act, 2)


@pytest.mark.parametrize("method", TOGETHER)
def test_two_processes_do_what_one_does(method: str, alone_and_together: Any) -> None:
    alone, together = alone_and_together
    for one in together:
        for found, expected in zip(one[method]["losses"], alone[method]["losses"], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)
        for name, expected in alone[method]["state"].items():
            torch.testing.assert_close(one[method]["state"][name], expected, atol=1e-8, rtol=1e-6, msg=name)


def test_a_copy_trains_as_the_original_does() -> None:
    """Deep copies are what momentum networks are made by."""
    built = make_method("moco", "resnet")
    views = views_of(SYSTEMS["moco", "mosaic"], step=0)
    assert take_step(copy.deepcopy(built), views, 0) == take_step(built, views, 0)
