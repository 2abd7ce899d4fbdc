"""Optimizers by name, and which weights decay."""

from typing import Any

import pytest
import torch
from timm.optim import Lars
from torch import nn

from smalti.errors import UserError
from smalti.training.optim import OptimizerConfig, clip_gradients, make_optimizer

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [("sgd", torch.optim.SGD, 0.8), ("lars", Lars, 0.8), ("adamw", torch.optim.AdamW, None)],
)
def test_names_choose_the_optimizer_and_the_rate_grows_with_the_batch(
    name: Any, kind: type, momentum: float | None
) -> None:
    optimizer = make_optimizer(OptimizerConfig(name=name, base_lr=0.3, momentum=0.8), NETWORK, batch_size=1024)
    assert type(optimizer) is kind
    assert {group["lr"] for group in optimizer.param_groups} == {0.3 * 4}
    assert {group.get("momentum") for group in optimizer.param_groups} == {momentum}


def test_normalization_and_biases_can_be_spared_from_decay() -> None:
    spared = make_optimizer(OptimizerConfig(weight_decay=0.1, decay_norm_and_bias=False), NETWORK, 256)
    decays = {id(p): group["weight_decay"] for group in spared.param_groups for p in group["params"]}
    conv, norm, linear = NETWORK
    assert [decays[id(p)] for p in (conv.weight, linear.weight)] == [0.1, 0.1]
    assert [decays[id(p)] for p in (conv.bias, linear.bias, norm.weight, norm.bias)] == [0.0] * 4


@pytest.mark.parametrize("each", [False, True])
def test_gradients_are_clipped_together_or_each_by_itself(each: bool) -> None:
    network = nn.Linear(2, 2)
    network.weight.grad, network.bias.grad = torch.full((2, 2), 3.0), torch.tensor([0.3, 0.4])
    clip_gradients(OptimizerConfig(clip_norm=1.0, clip_each=each), network)
    norms = [float(parameter.grad.norm()) for parameter in (network.weight, network.bias)]
    whole = (6**2 + 0.5**2) ** 0.5
    assert norms == pytest.approx([1.0, 0.5] if each else [6 / whole, 0.5 / whole], rel=1e-4)


def test_weights_that_take_no_gradient_are_left_alone() -> None:
    network = nn.Linear(2, 2).requires_grad_(False)
    network.bias.requires_grad_(True)
    (group,) = make_optimizer(OptimizerConfig(), network, 256).param_groups
    assert [id(p) for p in group["params"]] == [id(network.bias)]


@pytest.mark.parametrize("wrong", [{"base_lr": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"warmup_epochs": -1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)
