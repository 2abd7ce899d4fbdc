"""InfoNCE against the sums of the papers, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smalti.losses.info_nce import info_nce, info_nce_among

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 5), st.integers(1, 9))


def unit(rows: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(rows, dim, dtype=torch.float64), dim=1)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


@given(SHAPES, st.floats(0.05, 2), st.integers(0, 1000))
def test_info_nce_is_the_first_term_of_equation_9(
    shape: tuple[int, int, int, int], temperature: float, seed: int
) -> None:
    torch.manual_seed(seed)
    queries, _, dim, held = shape
    query, key, negatives = unit(queries, dim), unit(queries, dim), unit(held, dim)
    expected = []
    for z, k in zip(query, key, strict=True):
        found = math.exp(dot(z, k) / temperature)
        expected.append(-math.log(found / (found + sum(math.exp(dot(z, n) / temperature) for n in negatives))))
    losses = info_nce(query, key, negatives, temperature)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6)


@given(SHAPES, st.floats(0.05, 2), st.integers(0, 1000))
def test_info_nce_among_is_the_second_term_of_equation_9(
    shape: tuple[int, int, int, int], temperature: float, seed: int
) -> None:
    torch.manual_seed(seed)
    queries, held_keys, dim, held = shape
    query, keys, negatives = unit(queries, dim), unit(held_keys, dim), unit(held, dim)
    index = torch.randint(held_keys, (queries,))
    expected = []
    for z, i in zip(query, index, strict=True):
        below = sum(math.exp(dot(z, n) / temperature) for n in torch.cat([keys, negatives]))
        expected.append(-math.log(math.exp(dot(z, keys[i]) / temperature) / below))
    losses = info_nce_among(query, keys, index, negatives, temperature)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    query, key, negatives = unit(3, 4).requires_grad_(), unit(5, 4).requires_grad_(), unit(6, 4).requires_grad_()
    index = torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(lambda q, k, n: info_nce(q, k, n, 0.2), (query, key[:3], negatives))
    assert torch.autograd.gradcheck(lambda q, k, n: info_nce_among(q, k, index, n, 0.2), (query, key, negatives))


def test_a_small_temperature_does_not_overflow() -> None:
    torch.manual_seed(0)
    query, negatives = F.normalize(torch.randn(4, 8), dim=1), F.normalize(torch.randn(6, 8), dim=1)
    losses = info_nce(query, -query, negatives, 1e-3)
    assert losses.isfinite().all()
    assert (losses > 1000).all()


def test_autocast_does_not_round_similarities() -> None:
    torch.manual_seed(0)
    query, keys, negatives = (F.normalize(torch.randn(n, 16), dim=1) for n in (4, 5, 6))
    index = torch.tensor([0, 1, 2, 3])
    expected = info_nce(query, keys[:4], negatives, 0.07), info_nce_among(query, keys, index, negatives, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce(query, keys[:4], negatives, 0.07), info_nce_among(query, keys, index, negatives, 0.07)
    assert found[0].tolist() == pytest.approx(expected[0].tolist(), abs=1e-6)
    assert found[1].tolist() == pytest.approx(expected[1].tolist(), abs=1e-6)
