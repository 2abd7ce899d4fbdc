"""MoCo's dictionary as a queue (arXiv:1911.05722, section 3.2).

Legend: Q keys in the queue, D embedding, B new keys.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last Q keys, in a ring; part of the state dictionary.

    Args:
        size: Q, 1 or more; need not be a multiple of the batch.
        dim: D.

    Example:
        >>> from smalti.models import Queue
        >>> queue = Queue(size=4, dim=2)
        >>> queue.enqueue(torch.ones(3, 2))
        >>> queue.position.item(), queue.keys[:3].sum().item()
        (3, 6.0)
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))  # where the next key goes

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Add keys (B, D) in place of the oldest; of more than Q only the last Q are kept."""
        size = len(self.keys)
        place = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.keys[place[-size:]] = keys[-size:].to(self.keys.dtype)
        self.position.add_(len(keys)).remainder_(size)
