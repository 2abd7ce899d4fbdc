"""E-DIY's controls: partners of a cell drawn at random instead of ranked by a teacher (arXiv:2106.00537, Table 1).

Draws depend on an image's position in the batch of all processes, so they are the same for any number of processes.

Legend: W processes, B images on this one, R cells of a view, D embedding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from smalti.distributed import gather, rank
from smalti.errors import UserError
from smalti.losses.cells import take_cells
from smalti.methods.ediy import EDIY, Cells, EDIYConfig
from smalti.methods.method import DataInfo, Progress
from smalti.views.plan import Floats, Ints
from smalti.views.rng import field_key, uniform


@dataclass(frozen=True, kw_only=True)
class RandomPairsConfig(EDIYConfig):
    """Settings of the row R: both partners of a cell are random, and there is neither a teacher nor a wait for one."""

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher:
            raise UserError(f"teacher {self.teacher} for random pairs", "no teacher", "leave it out, or use EDIYConfig")

    def build(self, backbone: nn.Module, data: DataInfo) -> "RandomPairs":
        return RandomPairs(backbone, self, data)


class RandomPairs(EDIY):
    """R-DEM with any other cell of the same view, R-IEM with any cell of the other view."""

    def different_cells(self, cells: Cells, progress: Progress) -> list[Tensor]:
        away = []
        for view, f in enumerate(cells.online):
            count = f.shape[1]
            index = _another(np.arange(count), count, _draw("different", view, f, progress))
            away.append(take_cells(f, torch.from_numpy(index).to(f.device)))
        return away

    def similar_cells(self, cells: Cells, progress: Progress) -> list[Tensor]:
        similar = []
        for view, (f, g) in enumerate(zip(cells.online, reversed(cells.target), strict=True)):
            index = (_draw("similar", view, f, progress) * g.shape[1]).astype(np.int64)
            similar.append(take_cells(g, torch.from_numpy(index).to(g.device)))
        return similar


@dataclass(frozen=True, kw_only=True)
class OtherImagesConfig(EDIYConfig):
    """Settings of the row R-INS."""

    def build(self, backbone: nn.Module, data: DataInfo) -> "OtherImages":
        return OtherImages(backbone, self, data)


class OtherImages(EDIY):
    """R-DEM as in DenseCL (arXiv:2011.09157): away from the mean target cell of a random other image of the batch."""

    def different_cells(self, cells: Cells, progress: Progress) -> list[Tensor]:
        away = []
        for view, g in enumerate(cells.target):
            means = gather(g.mean(dim=1))  # (W*B, D)
            own = rank() * len(g) + np.arange(len(g))[:, None]
            index = _another(own, len(means), _draw("other", view, g, progress))
            away.append(means[torch.from_numpy(index).to(g.device)])
        return away


def _draw(field: str, view: int, cells: Tensor, progress: Progress) -> Floats:
    """(B, R) uniform numbers in [0, 1), one for every cell of (B, R, D)."""
    count, of_each = cells.shape[:2]
    image = rank() * count + np.arange(count, dtype=np.uint64)[:, None]
    cell = np.arange(of_each, dtype=np.uint64)
    return uniform(progress.seed, field_key(field), progress.step, view, image, cell)


def _another(own: Ints, count: int, u: Floats) -> Ints:
    """One of `count` things other than `own`, each as likely, by uniform numbers u."""
    return (own + 1 + (u * (count - 1)).astype(np.int64)) % count
