"""Split batch normalization is the same network run group by group."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from smalti.models import batch_norm
from smalti.models.batch_norm import split_batch_norm, synchronize_batch_norm

NETWORKS = {
    "resnet18": {"channels": (8, 8, 16, 16)},  # nn.BatchNorm2d
    "regnety_002": {},  # timm's BatchNormAct2d, a layer with its activation
}


def make_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **NETWORKS[name]).double()


def images(count: int) -> Tensor:
    scale = torch.arange(1, count + 1, dtype=torch.float64)[:, None, None, None]  # statistics of their own
    return scale * torch.randn(count, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("batch", "groups"), [(8, 2), (8, 4), (7, 3), (4, 1)])
def test_each_group_has_its_own_statistics(name: str, batch: int, groups: int) -> None:
    plain, x = make_network(name), images(batch)
    split = copy.deepcopy(plain)
    split_batch_norm(split).count = groups
    expected = torch.cat([plain(part) for part in x.chunk(groups)])
    torch.testing.assert_close(split(x), expected, atol=1e-9, rtol=1e-9)
    if groups > 1:
        assert (split(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_groups(name: str) -> None:
    plain, x = make_network(name), images(6)
    split = copy.deepcopy(plain)
    split_batch_norm(split).count = 2
    torch.cat([plain(part) for part in x.split(3)]).square().sum().backward()
    split(x).square().sum().backward()
    for (key, ours), theirs in zip(split.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-8, rtol=1e-8, msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_split_network_keeps_its_names_types_and_can_be_copied(name: str) -> None:
    plain = make_network(name)
    split = copy.deepcopy(plain)
    groups = split_batch_norm(split)
    groups.count = 2
    assert list(split.state_dict()) == list(plain.state_dict())
    assert all(isinstance(ours, type(theirs)) for ours, theirs in zip(split.modules(), plain.modules(), strict=True))
    x = images(4)
    copied = copy.deepcopy(split)
    torch.testing.assert_close(copied(x), split(x), atol=0, rtol=0)
    groups.count = 1  # the copy's number is its own
    torch.testing.assert_close(copied(x), torch.cat([split(part) for part in x.chunk(2)]), atol=1e-9, rtol=1e-9)
    plain.load_state_dict(split.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_is_untouched(name: str) -> None:
    plain, x = make_network(name), images(6)
    plain(x)  # running statistics that are not 0 and 1
    split = copy.deepcopy(plain)
    split_batch_norm(split).count = 3
    torch.testing.assert_close(split.eval()(x), plain.eval()(x), atol=0, rtol=0)


def test_running_statistics_move_as_far_as_one_batch_moves_them() -> None:
    torch.manual_seed(0)
    plain, split = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    split_batch_norm(split).count = 4
    x = 5 + 2 * torch.randn(32, 3, 20, 20)  # homogeneous: every group has nearly the batch's statistics
    for norm in (plain, split):
        norm(x)
    torch.testing.assert_close(split.running_mean, plain.running_mean, atol=0.02, rtol=0)
    torch.testing.assert_close(split.running_var, plain.running_var, atol=0.02, rtol=0)
    assert split.momentum == plain.momentum


def test_a_failed_step_leaves_the_momentum_as_it_was() -> None:
    norm = nn.BatchNorm1d(3)
    split_batch_norm(norm).count = 2
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.randn(3, 3))  # a last group of one
    assert norm.momentum == 0.1


def test_one_process_needs_no_synchronization() -> None:
    network, x = make_network("resnet18"), images(4)
    expected = copy.deepcopy(network)(x)
    synchronize_batch_norm(network)
    torch.testing.assert_close(network(x), expected, atol=0, rtol=0)


@pytest.mark.parametrize("cuda", [False, True])
def test_synchronized_layers_keep_their_activation(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    network = make_network("regnety_002")
    layers = [name for name, module in network.named_modules() if isinstance(module, BatchNormAct2d)]
    names, x = list(network.state_dict()), images(2)
    expected = network.eval()(x)
    synchronize_batch_norm(network)
    assert list(network.state_dict()) == names
    for name in layers:
        assert hasattr(network.get_submodule(name), "act")
    if not cuda:  # torch's own layer runs on CUDA alone
        torch.testing.assert_close(network(x), expected, atol=0, rtol=0)
