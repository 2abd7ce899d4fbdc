"""E-DIY's controls: partners of a cell by chance, in place of those that a teacher names (arXiv:2106.00537, Table 1).

Draws depend on the place in the batch of all processes, so any number of processes draws alike.

Legend: W processes, N views on this one (one an image), R cells of each, C channels, D embedding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from smalti.distributed import gather, rank
from smalti.methods.method import Progress
from smalti.views.plan import Floats, Ints
from smalti.views.rng import field_key, uniform


def random_pairs(maps: Sequence[Tensor], progress: Progress) -> tuple[list[Tensor], list[Tensor]]:
    """In the place of D(j) another cell of the view, in that of S(j) any cell of the other view."""
    count, cells = len(maps[0]), [each.shape[2] * each.shape[3] for each in maps]
    different, similar = [], []
    for view, (own, others) in enumerate(zip(cells, reversed(cells), strict=True)):
        another = _another(np.arange(own), own, _uniform("different", view, count, own, progress))
        different.append(torch.from_numpy(another).to(maps[0].device))
        any_one = (_uniform("similar", view, count, own, progress) * others).astype(np.int64)
        similar.append(torch.from_numpy(any_one).to(maps[0].device))
    return different, similar


def other_images(g: Tensor, view: int, progress: Progress) -> Tensor:
    """(N, R, D) for every cell the mean cell of a random other image, the batch being that of all processes."""
    count, cells = g.shape[:2]
    means = gather(g.mean(dim=1))  # (W*N, D)
    own = rank() * count + np.arange(count)[:, None]
    index = _another(own, len(means), _uniform("other", view, count, cells, progress))
    return means[torch.from_numpy(index).to(g.device)]


def _uniform(field: str, view: int, count: int, cells: int, progress: Progress) -> Floats:
    """(N, R) uniform numbers that depend on the place in the batch of all processes, not on who draws them."""
    image = rank() * count + np.arange(count, dtype=np.uint64)[:, None]
    cell = np.arange(cells, dtype=np.uint64)
    return uniform(progress.seed, field_key(field), progress.step, view, image, cell)


def _another(own: Ints, count: int, u: Floats) -> Ints:
    """One of `count` things other than `own`, each as likely."""
    return (own + 1 + (u * (count - 1)).astype(np.int64)) % count
