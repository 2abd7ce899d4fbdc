"""From one number a region to what a step reports."""

import torch.nn.functional as F
from torch import Tensor

from smalti.precision import widen


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """1/N 1/K sum of weight times loss, both of N * K regions in any shape.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5]))
        tensor(1.2500)
    """
    return (losses.flatten() * weight.flatten()).mean()


def embedding_spread(z: Tensor) -> Tensor:
    """Deviation of the directions of embeddings (..., D), times sqrt(D): near 1 when healthy, 0 after a collapse.

    Example:
        >>> embedding_spread(torch.ones(16, 8))
        tensor(0.)
    """
    z = F.normalize(widen(z.detach()), dim=-1).flatten(0, -2)
    return z.std(dim=0, unbiased=False).mean() * z.shape[-1] ** 0.5
