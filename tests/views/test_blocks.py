"""The block left to choose is one that the views can be dealt from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import UserError
from smalti.views.blocks import can_assign, choose_block
from smalti.views.crops import Crop
from smalti.views.mixture import Mixture
from smalti.views.montage import Montage
from smalti.views.mosaic import Mosaic

VIEWS = [Crop(), Mosaic(), Mosaic(tiles=9), Montage(level=1), Montage(level=2), Montage(level=3, repeats=2), Mixture()]


@given(st.integers(1, 600), st.lists(st.sampled_from(VIEWS), max_size=3))
def test_it_divides_the_batch_and_suits_all_views_if_any_does(batch: int, views: list) -> None:
    block = choose_block(batch, views)
    assert batch % block == 0
    others = [size for size in range(1, batch + 1) if batch % size == 0 and can_assign(size, views)]
    if not others:
        return
    assert block in others
    usual = [size for size in others if 8 <= size <= 32]
    if usual:
        assert block == max(usual)


@pytest.mark.parametrize(
    ("batch", "view", "block"),
    [(48, Montage(level=2), 16), (56, Montage(level=1), 28), (128, Montage(level=3), 64), (60, Mosaic(), 30)],
)
def test_it_is_the_largest_up_to_32_or_else_the_least_above(batch: int, view: Montage | Mosaic, block: int) -> None:
    assert choose_block(batch, [view]) == block


def test_where_none_suits_the_view_says_so() -> None:
    view = Montage(level=2)
    with pytest.raises(UserError, match="montages of 16 tiles"):
        view.check_block(choose_block(24, [view]))
