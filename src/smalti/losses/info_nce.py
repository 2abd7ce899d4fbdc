"""InfoNCE: the cross-entropy of picking the positive among the candidates.

Legend: R queries, D embedding, P keys, Q negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.precision import similarity


def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """-log exp(q.k/tau) / (exp(q.k/tau) + sum_n exp(q.n/tau)), for every query (MosRep Eq. 9, first term).

    Args:
        query: (R, D), length 1.
        positive: (R, D), the key k of each query.
        negatives: (Q, D), n.
        temperature: tau > 0.

    Returns:
        (R,) losses.

    Example:
        >>> query, positive, negatives = (F.normalize(torch.randn(count, 8), dim=1) for count in (4, 4, 16))
        >>> tuple(info_nce(query, positive, negatives, temperature=0.2).shape)
        (4,)
    """
    found = (query * positive).sum(dim=1, keepdim=True)  # (R, 1)
    logits = torch.cat([found, similarity(query, negatives)], dim=1) / temperature
    return logits.logsumexp(dim=1) - logits[:, 0]


def info_nce_among(query: Tensor, keys: Tensor, index: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """`info_nce` where the positive is one of several keys, and the other keys are negatives too (Eq. 9, second term).

    Args:
        query: (R, D), length 1.
        keys: (P, D), Z^k.
        index: (R,) int64, in [0, P): which key is the query's positive.
        negatives: (Q, D), N.
        temperature: tau > 0.

    Returns:
        (R,) losses.

    Example:
        >>> query, keys, negatives = (F.normalize(torch.randn(count, 8), dim=1) for count in (6, 3, 16))
        >>> image = torch.tensor([0, 0, 1, 1, 2, 2])  # two regions of each
        >>> tuple(info_nce_among(query, keys, image, negatives, temperature=0.2).shape)
        (6,)
    """
    logits = torch.cat([similarity(query, keys), similarity(query, negatives)], dim=1) / temperature
    return F.cross_entropy(logits, index, reduction="none")
