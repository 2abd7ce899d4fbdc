"""Weighted means and the spread of embeddings, by loops and on embeddings whose spread is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.losses.reduce import embedding_spread, weighted_mean, widen

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5))


@given(SHAPES, st.integers(0, 1000))
def test_a_weighted_mean_is_the_mean_over_canvases_of_the_sum_over_regions(shape: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    losses, weight = torch.randn(shape, dtype=torch.float64), torch.rand(shape)
    expected = sum(
        float(weight[n, k]) * float(losses[n, k]) / shape[0] for n in range(shape[0]) for k in range(shape[1])
    )
    assert float(weighted_mean(losses, weight)) == pytest.approx(expected, abs=1e-6)
    assert float(weighted_mean(losses.flatten(), weight)) == pytest.approx(expected, abs=1e-6)


def test_losses_and_weights_must_be_as_many() -> None:
    with pytest.raises(RuntimeError):
        weighted_mean(torch.ones(4, 2), torch.ones(4))


@given(st.integers(2, 6), st.integers(2, 8), st.integers(0, 1000))
def test_the_spread_is_the_deviation_of_directions(count: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    z = 5 * torch.randn(count, 2, dim, dtype=torch.float64)
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in z.flatten(0, 1).tolist()]
    deviations = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / len(column)))
    assert float(embedding_spread(z)) == pytest.approx(sum(deviations) / dim * math.sqrt(dim), abs=1e-6)


def test_the_spread_tells_health_from_collapse() -> None:
    torch.manual_seed(0)
    healthy = torch.randn(400, 64, requires_grad=True)
    assert float(embedding_spread(healthy)) == pytest.approx(1, abs=0.02)
    assert not embedding_spread(healthy).requires_grad
    assert float(embedding_spread(torch.ones(400, 64) + 1e-6 * healthy)) < 1e-5


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_at_least_32_bits(given_type: torch.dtype, expected: torch.dtype) -> None:
    assert widen(torch.ones(1, dtype=given_type)).dtype == expected
