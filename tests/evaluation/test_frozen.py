"""The check that an evaluation changes nothing fires when something changes."""

import pytest
import torch
from torch import nn

from smalti.evaluation.frozen import assert_frozen, weights_digest


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_equal_networks_have_equal_digests() -> None:
    assert weights_digest(make_network()) == weights_digest(make_network())


@pytest.mark.parametrize("key", ["0.weight", "1.running_mean", "1.num_batches_tracked"])
def test_one_changed_number_changes_the_digest(key: str) -> None:
    network = make_network()
    before = weights_digest(network)
    network.state_dict()[key].view(-1)[0] += 1
    assert weights_digest(network) != before


def test_types_without_a_numpy_counterpart_are_hashed() -> None:
    network = make_network().to(torch.bfloat16)
    assert weights_digest(network) != weights_digest(make_network())


def test_evaluation_mode_passes_and_training_mode_is_caught() -> None:
    network = make_network()
    pixels = torch.randn(2, 1, 5, 5)
    with assert_frozen(network.eval()):
        network(pixels)
    network.train()
    with pytest.raises(RuntimeError, match="batch norm in training mode"), assert_frozen(network):
        network(pixels)


def fail_after_a_change(network: nn.Sequential) -> None:
    with assert_frozen(network):
        network[0].weight.data += 1
        raise KeyError("inside")


def test_an_error_inside_is_not_hidden() -> None:
    with pytest.raises(KeyError, match="inside"):
        fail_after_a_change(make_network())
