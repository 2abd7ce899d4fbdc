"""Arithmetic that must not be done in 16 bits, whatever autocast does around it."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """At least 32 bits wide: autocast leaves 8 significant ones, too few for sums and differences."""
    return x if x.dtype.itemsize > 2 else x.float()


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Dot products, (..., R, D) and (..., P, D) -> (..., R, P), at least 32 bits wide.

    Divided by a small temperature, a similarity rounded to 8 bits would move a loss in its second digit.
    """
    with torch.autocast(a.device.type, enabled=False):
        return widen(a) @ widen(b).mT
