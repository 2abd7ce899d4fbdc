"""The cosine loss against BYOL's sums, written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.losses.cosine import cosine_loss, cosine_similarity

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))


@given(SHAPES, st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_the_loss_is_the_squared_distance_of_directions(shape: tuple[int, int, int], length: float, seed: int) -> None:
    torch.manual_seed(seed)
    prediction, target = length * torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    losses = cosine_loss(prediction, target)
    assert losses.shape == shape[:2]
    for loss, p, z in zip(losses.flatten(), prediction.flatten(0, 1), target.flatten(0, 1), strict=True):
        p_norm, z_norm = (math.sqrt(sum(x * x for x in v.tolist())) for v in (p, z))
        distance = sum((a / p_norm - b / z_norm) ** 2 for a, b in zip(p.tolist(), z.tolist(), strict=True))
        assert float(loss) == pytest.approx(distance, abs=1e-6)


def test_only_the_prediction_takes_gradients() -> None:
    torch.manual_seed(0)
    prediction, target = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    cosine_loss(prediction, target).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.any()
    assert target.grad is None
    fixed = target.detach()
    assert torch.autograd.gradcheck(lambda p: cosine_loss(p, fixed), (prediction,))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_cosine_of_bfloat16_is_computed_in_32_bits(autocast: bool) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(50, 64).bfloat16() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = cosine_similarity(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), cosine_similarity(a.double(), b.double()), atol=1e-6, rtol=0)
