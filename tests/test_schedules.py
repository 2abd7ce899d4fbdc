"""Schedules at their ends, and in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.schedules import cosine, warmup_cosine, warmup_drops


def test_a_cosine_passes_its_ends_and_its_middle() -> None:
    assert [cosine(3.0, 1.0, fraction) for fraction in (0.0, 0.5, 1.0)] == pytest.approx([3.0, 2.0, 1.0])
    assert cosine(3.0, 1.0, 0.25) == pytest.approx(2 + 2**-0.5)


def test_a_cosine_stays_at_its_ends_beyond_them() -> None:
    assert cosine(3.0, 1.0, -0.5) == 3.0
    assert cosine(3.0, 1.0, 1.5) == pytest.approx(1.0)


@given(total=st.integers(2, 300), data=st.data())
def test_the_factor_rises_to_1_then_falls_towards_0(total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, total - 1))
    factors = [warmup_cosine(step, total, warmup) for step in range(total)]
    rise, fall = factors[:warmup], factors[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert fall[0] == 1.0
    assert all(0 < factor <= 1 for factor in factors)
    assert warmup_cosine(total, total, warmup) == pytest.approx(0.0, abs=1e-12)


def test_the_warm_up_is_linear() -> None:
    assert [warmup_cosine(step, 10, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_a_run_that_is_all_warm_up_has_rates() -> None:
    assert [warmup_cosine(step, 2, 2) for step in range(2)] == [0.5, 1.0]


def test_a_cosine_may_end_above_0() -> None:
    rates = [warmup_cosine(step, 8, 2, peak=0.5, end=0.1) for step in range(9)]
    assert rates[:3] == [0.25, 0.5, 0.5]
    assert rates[5] == pytest.approx(0.3)
    assert rates[8] == pytest.approx(0.1)


def test_the_rate_falls_to_a_tenth_at_every_drop() -> None:
    assert [warmup_drops(step, 0, (2, 4), peak=3.0) for step in range(6)] == pytest.approx([3, 3, 0.3, 0.3, 0.03, 0.03])
    assert [warmup_drops(step, 2, (3,)) for step in range(5)] == pytest.approx([0.5, 1, 1, 0.1, 0.1])
