"""DINO's head against its arithmetic written out, one feature and one prototype at a time."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from smalti.errors import UserError
from smalti.models.backbone import Features
from smalti.models.momentum import momentum_copy
from smalti.models.prototypes import PrototypeHead, PrototypeHeadConfig

SWITCHES = [{}, {"norm": True}, {"norm_last": False}]


def make_head(**settings: Any) -> PrototypeHead:
    """Of 5 channels, in float64, with weights large enough that every layer matters."""
    torch.manual_seed(0)
    head = PrototypeHeadConfig(**{"hidden": 7, "bottleneck": 4, "outputs": 6} | settings).build(5).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return head


def features(count: int = 3, dtype: torch.dtype = torch.float64) -> Features:
    pooled = torch.randn(count, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return Features(map=torch.zeros(count, 5, 1, 1, dtype=dtype), pooled=pooled)


def linear(layer: nn.Linear, x: list[float]) -> list[float]:
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def length(x: list[float]) -> float:
    return math.sqrt(sum(v * v for v in x))


@pytest.mark.parametrize("norm_last", [True, False])
def test_the_head_is_three_layers_length_1_and_normalized_prototypes(norm_last: bool) -> None:
    head = make_head(norm_last=norm_last)
    first, second, third = (layer for layer in head.layers if isinstance(layer, nn.Linear))
    found = head(features()).detach()
    assert found.shape == (3, 6)
    for n, feature in enumerate(features().pooled.tolist()):
        z = linear(third, [gelu(v) for v in linear(second, [gelu(v) for v in linear(first, feature)])])
        for p, prototype in enumerate(head.prototypes.weight.tolist()):
            cosine = sum(a * b for a, b in zip(z, prototype, strict=True)) / length(z) / length(prototype)
            expected = cosine if head.lengths is None else cosine * head.lengths[p].item()
            assert float(found[n, p]) == pytest.approx(expected, abs=1e-9)


def test_batch_normalization_follows_each_hidden_layer() -> None:
    kinds = [type(layer).__name__ for layer in make_head(norm=True).layers]
    assert kinds == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]


def test_the_published_head_is_the_default() -> None:
    head = PrototypeHeadConfig().build(384)
    shapes = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    assert shapes == {
        "layers.0.weight": (2048, 384),
        "layers.0.bias": (2048,),
        "layers.2.weight": (2048, 2048),
        "layers.2.bias": (2048,),
        "layers.4.weight": (256, 2048),
        "layers.4.bias": (256,),
        "prototypes.weight": (65536, 256),
    }


def test_learned_lengths_start_at_1() -> None:
    head = PrototypeHeadConfig(hidden=4, bottleneck=3, outputs=5, norm_last=False).build(2)
    assert torch.equal(head._prototypes().norm(dim=1).round(decimals=6), torch.ones(5))


def test_the_length_of_a_weight_does_not_matter() -> None:
    head = make_head()
    before = head(features())
    with torch.no_grad():
        head.prototypes.weight *= torch.arange(1.0, 7.0)[:, None]
    torch.testing.assert_close(head(features()), before, atol=1e-12, rtol=0)


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_last_layer_is_all_that_stands_for_prototypes(switch: dict[str, Any]) -> None:
    head = make_head(**switch)
    rest = {id(parameter) for parameter in head.layers.parameters()}
    assert {id(p) for p in head.last_layer} == {id(p) for p in head.parameters()} - rest


def test_similarities_keep_their_precision_under_autocast() -> None:
    head = make_head().float()
    single = features(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, z = head(single), head.layers(single.pooled)
    assert z.dtype == torch.bfloat16
    expected = nn.functional.normalize(z.float(), dim=1) @ head._prototypes().T
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_momentum_copy_is_equal_and_independent(switch: dict[str, Any]) -> None:
    head = make_head(**switch).eval()
    twin = momentum_copy(head)
    assert torch.equal(twin(features()), head(features()))
    with torch.no_grad():
        head.prototypes.weight.zero_()
    assert not torch.equal(twin(features()), head(features()))


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_state_dictionary_restores_the_head(switch: dict[str, Any]) -> None:
    head = make_head(**switch)
    head(features())  # moves running statistics
    other = copy.deepcopy(head)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.zero_()
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.eval()(features()), head.eval()(features()))


@pytest.mark.parametrize("settings", [{"hidden": 0}, {"bottleneck": 0}, {"outputs": 1}])
def test_impossible_heads_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="or more"):
        PrototypeHeadConfig(**settings)
