"""One stored embedding for every image of the data set (Wu et al., arXiv:1805.01978), as CMC's released code keeps it.

Legend: I images in the data set, D embedding, R queries, C candidates of each, B images of a batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.precision import similarity


class MemoryBank(nn.Module):
    """I embeddings that follow those of the network; part of the state dictionary, 4 * I * D bytes.

    Args:
        images: I.
        dim: D.
        momentum: what a stored embedding keeps of itself when its image is seen, in [0, 1].
    """

    entries: Tensor

    def __init__(self, images: int, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        bound = (3 / dim) ** 0.5  # so that lengths are near 1
        self.register_buffer("entries", torch.empty(images, dim).uniform_(-bound, bound))

    def similarities(self, query: Tensor, index: Tensor) -> Tensor:
        """Dot products of queries (R, D) with the embeddings of the images `index` (R, C) -> (R, C)."""
        # With all I rather than with R x C copies: less memory wherever I is below C * D.
        return similarity(query, self.entries).gather(1, index)

    @torch.no_grad()
    def update(self, index: Tensor, z: Tensor) -> None:
        """Move the embeddings of the images `index` (B,) towards z (B, D), both of all processes, and to length 1."""
        moved = F.normalize(self.entries[index].lerp(z.to(self.entries.dtype), 1 - self.momentum), dim=1)
        # In a new tensor: the backward pass still needs the old one.
        self.entries = self.entries.index_copy(0, index, moved)
