"""Reductions of losses and embeddings to the scalars that a training step returns.

Legend: N canvases, K regions on each, D embedding.
"""

import torch.nn.functional as F
from torch import Tensor

from smalti.precision import widen


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """(1/N) sum_n sum_k w_nk l_nk: the mean over canvases of the weighted sum over each one's regions.

    Where the weights of a canvas add up to 1, this is the mean of its losses; see `Composition`.

    Args:
        losses: one for each of the N * K regions, in their order, in any shape.
        weight: (N, K), or (N,) for one loss a canvas.

    Returns:
        A scalar.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([[0.5, 0.5]]))
        tensor(2.)
    """
    return (losses.flatten() * weight.flatten()).sum() / len(weight)


def embedding_spread(z: Tensor) -> Tensor:
    """Standard deviation of normalized embeddings (..., D), times sqrt(D): near 1 when healthy, 0 after a collapse.

    Example:
        >>> embedding_spread(torch.ones(16, 8))
        tensor(0.)
    """
    z = F.normalize(widen(z.detach()), dim=-1).flatten(0, -2)
    return z.std(dim=0, unbiased=False).mean() * z.shape[-1] ** 0.5
