"""Two processes take the step of BYOL, and of E-DIY, that one takes on the batch of both."""

from typing import Any

import pytest
import torch
from helpers import EIGHT_BIT, NO_DATA, UNCHANGED, ListSource, run_in_processes, textured
from test_processes import VIEWS, _mean

from smalti.distributed import rank, world_size
from smalti.methods.byol import BYOLConfig
from smalti.methods.ediy import EDIYConfig
from smalti.methods.method import Progress
from smalti.models.backbone import BackboneConfig
from smalti.models.heads import ProjectorConfig
from smalti.views.canvas import Canvas
from smalti.views.finish import finish
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.render_device import render

HEADS: dict[str, Any] = {
    "projector": ProjectorConfig(hidden=16, dim=16, norm=True),
    "predictor_hidden": 16,
    "region_size": 3,
}
METHODS = {
    "byol": BYOLConfig(**HEADS),
    "e-diy": EDIYConfig(**HEADS, warmup_epochs=0),
    "random pairs": EDIYConfig(**HEADS, pairing="random"),
    "other images": EDIYConfig(**HEADS, warmup_epochs=0, negatives="other"),
}


def act() -> dict[str, dict[str, Any]]:
    canvases = make_canvases()
    return {name: take_step(config, canvases) for name, config in METHODS.items()}


def make_canvases() -> list[Canvas]:
    """This process's share of a batch."""
    order = BatchOrder(num_images=16, batch_size=16, seed=1, block=4)
    source = ListSource(textured(16))
    dataset = ViewDataset(source, VIEWS, order, EIGHT_BIT, executor="device", rank=rank(), world_size=world_size())
    batch = dataset[0]
    assert batch.images is not None
    images = batch.images.double() / 255
    return [finish(view, plan, render(plan, images), UNCHANGED) for view, plan in zip(VIEWS, batch.plans, strict=True)]


def take_step(config: BYOLConfig, canvases: list[Canvas]) -> dict[str, Any]:
    """Loss and gradients averaged over the processes, and what this process then holds."""
    torch.manual_seed(0)
    options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "zero_init_last": False}
    method = config.build(BackboneConfig(name="resnet18", stem="stride8", options=options), NO_DATA).double()
    loss = method(canvases, Progress(step=3, total_steps=10, steps_per_epoch=5, seed=1)).loss
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {
        "loss": _mean(loss.detach()),
        "gradients": {name: _mean(gradient) for name, gradient in gradients.items()},
        "buffers": dict(method.named_buffers()),
    }


@pytest.fixture(scope="module")
def two() -> list[dict[str, dict[str, Any]]]:
    return run_in_processes(act, 2)


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, Any]]:
    return act()


@pytest.mark.parametrize("result", ["loss", "gradients", "buffers"])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_take_the_step_of_one(one: dict, two: list[dict], method: str, result: str) -> None:
    assert len(one[method]["gradients"]) > 30
    for each in two:
        torch.testing.assert_close(each[method][result], one[method][result], atol=1e-9, rtol=1e-7)


def test_the_methods_differ(one: dict) -> None:
    assert len({float(step["loss"]) for step in one.values()}) == len(METHODS)
