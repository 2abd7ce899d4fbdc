"""One minus the cosine of two vectors (BYOL, arXiv:2006.07733, Eq. 2, halved)."""

import torch.nn.functional as F
from torch import Tensor


def cosine_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """(..., D) and (..., D), of any length -> (...) in [0, 2]; the target takes no gradients."""
    return 1 - F.cosine_similarity(prediction, target.detach(), dim=-1)
