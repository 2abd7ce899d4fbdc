"""Two processes take the step that one takes on the batch of both."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import EIGHT_BIT, NO_DATA, UNCHANGED, ListSource, textured

from smalti.distributed import gather, rank, share, sum_over_processes, world_size
from smalti.methods.method import Progress
from smalti.methods.moco import MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.testing.processes import run_in_processes
from smalti.views.crops import Crop
from smalti.views.finish import finish
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.mosaic import Mosaic
from smalti.views.render_device import render

VIEWS = (Crop(size=32), Crop(size=32), Mosaic(tile_size=16, max_shift=10), Crop(size=16, count=2))
GROUPS = (4, 0)  # split, and synchronized


def act() -> dict[Any, dict[str, Any]]:
    """A step with each normalization, and some talk: all that one start of the processes is used for."""
    return {group: take_step(group) for group in GROUPS} | {"talk": talk()}


def take_step(shuffle_bn_group: int) -> dict[str, Any]:
    """Loss and gradients averaged over the processes, and what this process then holds."""
    torch.manual_seed(0)
    config = MoCoConfig(
        queue=40,
        projector=ProjectorConfig(kind="conv", dim=16),
        shuffle_bn_group=shuffle_bn_group,
        region_size=3,
        symmetric=True,
    )
    options = {"channels": [8, 8, 16, 16], "zero_init_last": False}
    method = config.build(TimmBackbone(name="resnet18", stem="stride8", options=options).build(), NO_DATA).double()
    dataset = ViewDataset(
        ListSource(textured(24)),
        VIEWS,
        BatchOrder(num_images=24, batch_size=16, seed=1, block=4),
        EIGHT_BIT,
        executor="device",
        rank=rank(),
        world_size=world_size(),
    )
    batch = dataset[0]
    assert batch.images is not None
    images = batch.images.double() / 255
    canvases = [
        finish(view, plan, render(plan, images), UNCHANGED) for view, plan in zip(VIEWS, batch.plans, strict=True)
    ]
    loss = method(canvases, Progress(step=3, total_steps=10, steps_per_epoch=5, seed=1)).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in method.query_network.named_parameters()}
    return {
        "loss": _mean(loss.detach()),
        "gradients": {name: _mean(gradient) for name, gradient in gradients.items() if gradient is not None},
        "keys": method.queue.keys,
        "buffers": dict(method.named_buffers()),
    }


def _mean(tensor: torch.Tensor) -> torch.Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor / world_size()


def talk() -> dict[str, Any]:
    mine = torch.tensor([10.0 * rank(), 10.0 * rank() + 1])
    weight = torch.tensor(2.0 + rank(), requires_grad=True)
    sum_over_processes(weight * weight).backward()
    return {"gathered": gather(mine).tolist(), "shared": share(gather(mine)).tolist(), "gradient": float(weight.grad)}


@pytest.fixture(scope="module")
def two() -> list[dict[Any, dict[str, Any]]]:
    return run_in_processes(act, 2)


@pytest.fixture(scope="module")
def one() -> dict[Any, dict[str, Any]]:
    return act()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("result", ["loss", "gradients", "keys"])
def test_two_processes_take_the_step_of_one(one: dict, two: list[dict], group: int, result: str) -> None:
    for each in two:
        torch.testing.assert_close(each[group][result], one[group][result], atol=1e-9, rtol=1e-7)


def test_synchronized_running_statistics_are_those_of_the_whole_batch(one: dict, two: list[dict]) -> None:
    for each in two:
        torch.testing.assert_close(each[0]["buffers"], one[0]["buffers"], atol=1e-9, rtol=1e-7)


def test_every_parameter_has_a_gradient_to_compare(one: dict) -> None:
    for group in GROUPS:
        assert len(one[group]["gradients"]) > 60
        assert [name for name, gradient in one[group]["gradients"].items() if not gradient.any()] == []


def test_processes_gather_share_and_sum(two: list[dict]) -> None:
    first, second = (each["talk"] for each in two)
    assert first["gathered"] == second["gathered"] == [0, 1, 10, 11]
    assert (first["shared"], second["shared"]) == ([0, 1], [10, 11])
    # Each process's loss is the sum, so the gradient of all losses together is twice that of one.
    assert (first["gradient"], second["gradient"]) == (8, 12)


def test_one_process_talks_to_itself(one: dict) -> None:
    assert one["talk"] == {"gathered": [0, 1], "shared": [0, 1], "gradient": 4}
