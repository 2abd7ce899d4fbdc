"""Blocks of a batch: the images among which tiles are assigned to canvases, never split between processes."""

from collections.abc import Sequence

from smalti.errors import UserError
from smalti.views.plan import Composition

_LEAST, _MOST = 8, 32  # of the blocks to look at first


def choose_block(batch_size: int, views: Sequence[Composition] = ()) -> int:
    """Images of a block for a batch: of its divisors the largest up to 32 from which all views can be assigned.

    Where there is none from 8 to 32 it is the least above them, then the largest below. Where no divisor will do it is
    what it would be without views, whose `check_block` then says why.
    """
    divisors = [d for d in range(batch_size, 0, -1) if batch_size % d == 0]
    usual, small = [d for d in divisors if _LEAST <= d <= _MOST], [d for d in divisors if d < _LEAST]
    preferred = [*usual, *(d for d in reversed(divisors) if d > _MOST), *small]
    return next((block for block in preferred if can_assign(block, views)), preferred[0])


def can_assign(block: int, views: Sequence[Composition]) -> bool:
    """Whether canvases of all views can be assigned among `block` images."""
    try:
        for view in views:
            view.check_block(block)
    except UserError:
        return False
    return True
