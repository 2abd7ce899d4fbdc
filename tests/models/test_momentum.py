"""The slow copy moves by the momentum, and by nothing else."""

import copy

import pytest
import torch
from torch import nn

from smalti.models.momentum import MomentumPair, momentum_copy, update_targets


def make_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_every_parameter_becomes_the_weighted_mean(momentum: float) -> None:
    online, target = make_network(0), make_network(1)
    before = copy.deepcopy(target.state_dict())
    update_targets([MomentumPair(online, target, momentum)])
    for name, parameter in target.named_parameters():
        expected = momentum * before[name] + (1 - momentum) * online.get_parameter(name)
        torch.testing.assert_close(parameter, expected, atol=1e-12, rtol=0, msg=name)


def test_buffers_and_the_online_network_stay_as_they_are() -> None:
    online, target = make_network(0), make_network(1)
    online(torch.randn(8, 3, 5, 5, dtype=torch.float64))  # moves the running statistics
    online_before, target_before = copy.deepcopy(online.state_dict()), copy.deepcopy(target.state_dict())
    update_targets([MomentumPair(online, target, 0.3)])
    for name, buffer in target.named_buffers():
        assert torch.equal(buffer, target_before[name])
    for name, value in online.state_dict().items():
        assert torch.equal(value, online_before[name])


def test_each_pair_has_its_own_momentum() -> None:
    pairs = [MomentumPair(make_network(0), make_network(1), momentum) for momentum in (0.0, 1.0)]
    update_targets(pairs)
    assert torch.equal(pairs[0].target[0].weight, pairs[0].online[0].weight)
    assert torch.equal(pairs[1].target[0].weight, make_network(1)[0].weight)


def test_a_copy_starts_equal_is_independent_and_takes_no_gradient() -> None:
    online = make_network(0)
    target = momentum_copy(online)
    assert torch.equal(target[0].weight, online[0].weight)
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    with torch.no_grad():
        online[0].weight.zero_()
    assert target[0].weight.any()
