"""The cosine of two vectors, and BYOL's loss on it.

Legend: D embedding.
"""

import torch.nn.functional as F
from torch import Tensor

from smalti.precision import widen


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """(..., D) and (..., D), of any length -> (...) in [-1, 1], at least 32 bits wide.

    Example:
        >>> cosine_similarity(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0]))
        tensor(0.)
    """
    return F.cosine_similarity(widen(a), widen(b), dim=-1)


def cosine_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """|p/|p| - z/|z||^2 = 2 - 2 cos(p, z), BYOL's loss (arXiv:2006.07733, Eq. 2).

    Args:
        prediction: (..., D), of any length.
        target: (..., D), of any length; it gets no gradients.

    Returns:
        (...) losses in [0, 4].

    Example:
        >>> cosine_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([2.])
    """
    return 2 - 2 * cosine_similarity(prediction, target.detach())
