"""A composition of your own: smalti pretrain DATA --out RUN --recipe examples/own_composition.py --views.2.tile-size 16

`smalti views DATA --out views.png --recipe examples/own_composition.py` draws it.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from smalti import Recipe, get_recipe
from smalti.views import Composition, Crop, Plan, Regions, ViewRNG


@dataclass(frozen=True, kw_only=True)
class Quartet(Composition):
    """Four crops of one image on a canvas: a mosaic without the company of other images.

    Attributes:
        tile_size: side of a crop, pixels.
    """

    tile_size: int = 112

    @property
    def canvas_size(self) -> int:
        return 2 * self.tile_size

    def resized(self, factor: float) -> "Quartet":
        return replace(self, tile_size=round(factor * self.tile_size))

    def plan(self, sizes: np.ndarray, rng: ViewRNG) -> Plan:
        images, tile = len(sizes), float(self.tile_size)
        crops = Crop(size=self.tile_size, count=4, scale=(0.05, 0.6)).plan(sizes, rng)
        corners = torch.tensor([(0, 0), (1, 0), (0, 1), (1, 1)]) * tile  # x and y, in the order of the slots
        boxes = torch.cat([corners, corners + tile], dim=1).expand(images, 4, 4)
        regions = Regions(
            source=torch.arange(images)[:, None].expand(images, 4),
            boxes=boxes,
            weight=torch.full((images, 4), 1 / 4),
            whole=False,
        )
        slots, offset = np.arange(4 * images).reshape(images, 2, 2), np.zeros((images, 2), dtype=np.int64)
        return replace(crops, slots=slots, offset=offset, canvas_size=self.canvas_size, regions=regions)


def recipe() -> Recipe:
    """MosRep's small recipe with it in place of the mosaic."""
    base = get_recipe("mosrep_moco_small")
    quartet = Quartet(tile_size=base.image_size // 2)
    return replace(base, name="own_composition", views=(*base.views[:2], quartet))
