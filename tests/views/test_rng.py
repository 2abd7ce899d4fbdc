"""Random numbers are functions of their key and of nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import make_rng
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from smalti.views.rng import field_key, integers, mix, permutation, uniform

WORDS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6)


@given(WORDS)
def test_the_same_key_gives_the_same_number(words: list[int]) -> None:
    assert mix(*words) == mix(*words)


@given(WORDS, st.data())
def test_one_bit_of_any_word_changes_half_of_the_number(words: list[int], data: st.DataObject) -> None:
    changed = list(words)
    changed[data.draw(st.integers(0, len(words) - 1))] ^= 1 << data.draw(st.integers(0, 63))
    flipped = (int(mix(*words)) ^ int(mix(*changed))).bit_count()
    assert 8 <= flipped <= 56  # of 64; outside with a probability of 1e-10


def test_the_place_of_a_word_in_the_key_matters() -> None:
    assert mix(1, 2) != mix(2, 1)
    assert mix(0) != mix(0, 0)


def test_words_broadcast_to_the_numbers_of_single_keys() -> None:
    grid = mix(7, np.arange(3, dtype=np.uint64)[:, None], np.arange(4, dtype=np.uint64))
    assert [[int(mix(7, i, j)) for j in range(4)] for i in range(3)] == grid.tolist()


def test_uniform_is_uniform_and_its_neighbors_are_independent() -> None:
    u = uniform(3, np.arange(40_000, dtype=np.uint64))
    assert kstest(u, "uniform").pvalue > 0.01
    pairs, _, _ = np.histogram2d(u[:-1], u[1:], bins=10, range=[[0, 1], [0, 1]])
    assert chisquare(pairs.ravel()).pvalue > 0.01
    assert u.min() > 0
    assert u.max() < 1


def test_integers_are_as_likely_each() -> None:
    drawn = integers(7, 3, np.arange(7000, dtype=np.uint64))
    assert drawn.dtype == np.int64
    assert chisquare(np.bincount(drawn, minlength=7)).pvalue > 0.01
    assert drawn.max() == 6


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_permutation_is_one(count: int, seed: int) -> None:
    assert sorted(permutation(count, seed)) == list(range(count))


def test_every_permutation_is_as_likely() -> None:
    orders = [tuple(permutation(3, seed)) for seed in range(3000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert chisquare(counts).pvalue > 0.01


def test_fields_have_words_of_their_own() -> None:
    names = ["area", "aspect", "flip", "blur", "sigma", "hue", "order", "cells", "jitter", "noise", "images"]
    assert len({field_key(name) for name in names}) == len(names)


def test_an_image_has_its_numbers_wherever_it_stands() -> None:
    rng = make_rng(8)
    order = np.array([5, 0, 7, 2])
    elsewhere = replace(rng, images=rng.images[order], first=4, step=3, block=2)
    np.testing.assert_array_equal(
        elsewhere.per_image("area", crops=3, numbers=2), rng.per_image("area", crops=3, numbers=2)[order]
    )


def test_more_crops_or_draws_leave_the_first_ones_alone() -> None:
    rng = make_rng(4)
    np.testing.assert_array_equal(rng.per_image("x", 2, 3), rng.per_image("x", 5, 7)[:, :2, :3])


@pytest.mark.parametrize("word", ["seed", "epoch", "view"])
def test_numbers_of_an_image_change_with(word: str) -> None:
    rng = make_rng(50)
    other = replace(rng, **{word: 1})
    assert not np.isin(rng.per_image("area"), other.per_image("area")).any()


def test_numbers_of_images_crops_and_draws_all_differ() -> None:
    numbers = np.concatenate([make_rng(20).per_image(field, 5, 4).ravel() for field in ("x", "y")])
    assert len(np.unique(numbers)) == len(numbers)


@pytest.mark.parametrize("word", ["seed", "epoch", "view", "step"])
def test_numbers_of_a_canvas_change_with(word: str) -> None:
    rng = make_rng(50)
    other = replace(rng, **{word: 1})
    assert not np.isin(rng.per_canvas("jitter", 50, 2), other.per_canvas("jitter", 50, 2)).any()
    assert (rng.block_permutation("images", 0, 50) != other.block_permutation("images", 0, 50)).any()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_draw_the_canvases_and_blocks_of_one_process(ranks: int) -> None:
    whole, share = make_rng(16, block=4), 16 // ranks
    shares = [make_rng(share, block=4, first=rank * share) for rank in range(ranks)]
    for per_image in (1, 3):
        parts = [rng.per_canvas("jitter", share * per_image, 2) for rng in shares]
        np.testing.assert_array_equal(np.concatenate(parts), whole.per_canvas("jitter", 16 * per_image, 2))
    assert [block for rng in shares for block in rng.blocks()] == list(whole.blocks()) == [0, 1, 2, 3]


def test_numbers_of_a_batch_are_the_same_on_all_ranks_and_others_at_every_step_and_view() -> None:
    whole, part = make_rng(8, 4), make_rng(4, 4, first=4)
    np.testing.assert_array_equal(whole.per_batch("alpha", 3), part.per_batch("alpha", 3))
    drawn = [make_rng(8, 4, step=step, view=view).per_batch("alpha")[0] for step in range(50) for view in range(4)]
    drawn += [make_rng(8, 4, seed=seed).per_batch("alpha")[0] for seed in range(1, 50)]
    drawn += [whole.per_batch("free")[0], *whole.per_canvas("alpha", 8)[:, 0]]
    assert len(set(drawn)) == len(drawn)
