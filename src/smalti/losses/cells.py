"""Pairs of cells of feature maps, and the losses on them: E-DIY's Eq. 4 to 7 (arXiv:2106.00537).

The paper calls a cell a region.

Legend: N views, R cells of a view, C channels of the teacher, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.losses.cosine import cosine_similarity
from smalti.precision import similarity, widen


def most_different(cells: Tensor) -> Tensor:
    """D(j) = argmin_z sim(T(x)_z, T(x)_j), Eq. 4: (N, R, C) -> (N, R) indices of cells of the same view.

    Example:
        >>> most_different(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]]))
        tensor([[2, 2, 0]])
    """
    return _similarities(cells, cells).argmin(dim=2)


def most_similar(cells: Tensor, others: Tensor) -> Tensor:
    """S(j) = argmax_z sim(T(x')_z, T(x)_j), Eq. 6: (N, R, C) and (N, R', C) -> (N, R) indices into the other view.

    Example:
        >>> most_similar(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[0.1, 1.0], [1.0, 0.1]]]))
        tensor([[1, 0]])
    """
    return _similarities(cells, others).argmax(dim=2)


def take_cells(cells: Tensor, index: Tensor) -> Tensor:
    """(N, R', D) and (N, R) indices of cells in [0, R') -> (N, R, D).

    Example:
        >>> take_cells(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[[0., 1.],
                 [0., 1.],
                 [1., 0.]]])
    """
    return torch.take_along_dim(cells, index[..., None], dim=1)


def diversity_loss(cells: Tensor, different: Tensor) -> Tensor:
    """1/R sum_j cos(f(x)_j, f(x)_D(j)), one view's term of Eq. 5.

    The paper writes no stop-gradient here, and its f is the online network on both sides: gradients flow into both.

    Args:
        cells: (N, R, D), of any length.
        different: (N, R, D), the cell that each one is pushed away from.

    Returns:
        (N,) losses in [-1, 1].

    Example:
        >>> diversity_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-2.0, 0.0]]]))
        tensor([-1.])
    """
    return cosine_similarity(cells, different).mean(dim=1)


def invariance_loss(cells: Tensor, similar: Tensor) -> Tensor:
    """1 - 1/R sum_j cos(f(x)_j, sg g(x')_S(j)), one view's term of Eq. 7.

    Args:
        cells: (N, R, D), of any length.
        similar: (N, R, D), the cell that each one is pulled to; it gets no gradients.

    Returns:
        (N,) losses in [0, 2].

    Example:
        >>> invariance_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0, 0.0]]]))
        tensor([0.])
    """
    return 1 - cosine_similarity(cells, similar.detach()).mean(dim=1)


def _similarities(cells: Tensor, others: Tensor) -> Tensor:
    """(N, R, R') cosines, at least 32 bits wide: rounding to 16 would change the ranks of close ones."""
    return similarity(*(F.normalize(widen(each), dim=-1) for each in (cells, others)))
