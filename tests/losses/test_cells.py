"""E-DIY's Eq. 4 to 7, one cell at a time."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smalti.losses.cells import diversity_loss, invariance_loss, most_different, most_similar, take_cells

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 5))


def sim(a: Tensor, b: Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist())) / math.sqrt(sum(y * y for y in b.tolist()))


def two_maps(shape: tuple[int, int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    views, cells, others, dim = shape
    return torch.randn(views, cells, dim, dtype=torch.float64), torch.randn(views, others, dim, dtype=torch.float64)


@given(SHAPES, st.integers(0, 1000))
def test_partners_are_those_of_equations_4_and_6(shape: tuple[int, int, int, int], seed: int) -> None:
    taught, other = two_maps(shape, seed)
    different, similar = most_different(taught), most_similar(taught, other)
    assert different.shape == similar.shape == shape[:2]
    for n in range(shape[0]):
        for j in range(shape[1]):
            within = [sim(cell, taught[n, j]) for cell in taught[n]]
            across = [sim(cell, taught[n, j]) for cell in other[n]]
            # In one dimension every cosine is 1 or -1, so the best is not the only one.
            assert within[different[n, j]] == pytest.approx(min(within), abs=1e-9)
            assert across[similar[n, j]] == pytest.approx(max(across), abs=1e-9)


@given(SHAPES, st.integers(0, 1000))
def test_the_losses_are_the_terms_of_equations_5_and_7(shape: tuple[int, int, int, int], seed: int) -> None:
    cells, other = two_maps(shape, seed)
    views, count = shape[:2]
    within, across = torch.randint(count, (views, count)), torch.randint(shape[2], (views, count))
    diversity = diversity_loss(cells, take_cells(cells, within))
    invariance = invariance_loss(cells, take_cells(other, across))
    for n in range(views):
        pushed = sum(sim(cells[n, j], cells[n, within[n, j]]) for j in range(count)) / count
        pulled = sum(sim(cells[n, j], other[n, across[n, j]]) for j in range(count)) / count
        assert float(diversity[n]) == pytest.approx(pushed, abs=1e-6)
        assert float(invariance[n]) == pytest.approx(1 - pulled, abs=1e-6)


def test_both_cells_are_pushed_but_only_one_is_pulled() -> None:
    for loss, both in ((diversity_loss, True), (invariance_loss, False)):
        cells, partners = (each.requires_grad_() for each in two_maps((2, 4, 4, 3), seed=0))
        loss(cells, partners).sum().backward()
        assert cells.grad is not None
        assert cells.grad.any()
        assert (partners.grad is not None) == both


def test_gradients_are_those_of_finite_differences() -> None:
    cells, partners = (each.requires_grad_() for each in two_maps((2, 3, 3, 4), seed=0))
    index = torch.tensor([[2, 0, 1], [1, 2, 0]])
    assert torch.autograd.gradcheck(lambda f: diversity_loss(f, take_cells(f, index)), (cells,))
    fixed = partners.detach()
    assert torch.autograd.gradcheck(lambda f: invariance_loss(f, fixed), (cells,))


def test_autocast_does_not_change_who_is_alike() -> None:
    torch.manual_seed(0)
    # Cells that differ in their third digit: rounded to 8 bits, many would be equally alike.
    taught, other = (1 + 0.01 * torch.randn(4, 30, 8) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = most_different(taught), most_similar(taught, other)
        losses = diversity_loss(taught, other), invariance_loss(taught, other)
    assert torch.equal(found[0], most_different(taught))
    assert torch.equal(found[1], most_similar(taught, other))
    torch.testing.assert_close(losses[0].double(), diversity_loss(taught.double(), other.double()), atol=1e-6, rtol=0)
    torch.testing.assert_close(losses[1].double(), invariance_loss(taught.double(), other.double()), atol=1e-6, rtol=0)
