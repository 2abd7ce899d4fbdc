"""Projectors against their layers written out."""

import pytest
import torch
from torch import Tensor, nn

from smalti.models.backbone import Features
from smalti.models.heads import ProjectorConfig, mlp

CHANNELS, HIDDEN, DIM = 6, 5, 4
MAP = torch.randn(7, CHANNELS, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FEATURES = Features(map=MAP, pooled=MAP[:, :, 0, 0])  # a pooled feature that is not the map's mean


def weights_of(head: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in head.parameters()]


def normalized(x: Tensor) -> Tensor:
    """Batch normalization in training, before its weights are moved."""
    return (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()


@pytest.mark.parametrize("norm", [False, True])
def test_mlp(norm: bool) -> None:
    head = ProjectorConfig(kind="mlp", hidden=HIDDEN, dim=DIM, norm=norm).build(CHANNELS).double()
    first, first_bias, *_, second, second_bias = weights_of(head)
    hidden = FEATURES.pooled @ first.T + first_bias
    hidden = normalized(hidden) if norm else hidden
    expected = hidden.clamp(min=0) @ second.T + second_bias
    torch.testing.assert_close(head(FEATURES), expected, atol=1e-9, rtol=0)


def test_conv() -> None:
    head = ProjectorConfig(kind="conv", hidden=HIDDEN, dim=DIM).build(CHANNELS).double()
    mix, _, _, first, first_bias, second, second_bias = weights_of(head)
    cells = torch.einsum("nchw,dc->nhwd", MAP, mix[:, :, 0, 0]).flatten(0, 2)
    mixed = normalized(cells).clamp(min=0).view(7, 6, HIDDEN).mean(dim=1)
    expected = (mixed @ first.T + first_bias).clamp(min=0) @ second.T + second_bias
    torch.testing.assert_close(head(FEATURES), expected, atol=1e-9, rtol=0)


def test_linear() -> None:
    head = ProjectorConfig(kind="linear", dim=DIM).build(CHANNELS).double()
    weight, bias = weights_of(head)
    torch.testing.assert_close(head(FEATURES), FEATURES.pooled @ weight.T + bias)


def test_a_hidden_width_of_0_is_the_backbones() -> None:
    assert [weight.shape[0] for weight in weights_of(ProjectorConfig(hidden=0, dim=DIM).build(CHANNELS))[::2]] == [6, 4]


def test_a_predictor_is_an_mlp_between_equal_widths() -> None:
    assert mlp(DIM, HIDDEN, DIM, norm=True)(torch.randn(3, DIM)).shape == (3, DIM)
