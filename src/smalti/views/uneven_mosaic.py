"""Mosaics of four uneven tiles around a random center, a control of MCL (its Table 8), as detectors are trained with.

Legend: B images on this rank, N canvases.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from smalti.errors import UserError
from smalti.views.crops import Augmentation, check_crop, draw_tiles
from smalti.views.mosaic import assign_slots, check_mosaic_block, mosaic_regions
from smalti.views.plan import Composition, Ints, Plan, flatten
from smalti.views.rng import ViewRNG

_TILES = 4


@dataclass(frozen=True, kw_only=True)
class UnevenMosaic(Composition):
    """Four crops of every image, assigned to B canvases; the four on a canvas meet at a random center.

    A crop is as large as the canvas and meets the center with its corner; what leaves the canvas is lost, as in YOLO's
    mosaic (arXiv:2004.10934). Never are two crops of one image on a canvas.

    Attributes:
        size: side of a canvas and of a crop, pixels.
        margin: least distance of the center from an edge, as a part of the side; in [0, 0.5], and 0.5 for even tiles.
        scale: range of a crop's share of its image's area.
        ratio: range of its width over its height.
        weigh_visible: weigh a region by the square root of its visible part, else by 1 (0 where nothing is left).
        augmentation: what happens to each crop.

    Example:
        >>> from smalti.views import Collate, UnevenMosaic
        >>> (canvas,) = Collate([UnevenMosaic(size=32)])([torch.rand(3, 40, 60) for _ in range(8)])
        >>> boxes = canvas.regions.boxes  # of the four tiles of every canvas
        >>> int((boxes[0, :, 2:] - boxes[0, :, :2]).prod(dim=-1).sum()), 32 * 32
        (1024, 1024)
    """

    size: int = 224
    margin: float = 0.25
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    weigh_visible: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_crop(self.size, self.scale, self.ratio, _TILES)
        if not 0 <= self.margin <= 0.5:
            raise UserError(f"margin {self.margin}", "0 to 0.5 of the side", "use e.g. 0.25")

    @property
    def canvas_size(self) -> int:
        return self.size

    def resized(self, factor: float) -> "UnevenMosaic":
        return replace(self, size=round(self.size * factor))

    def check_block(self, block: int) -> None:
        check_mosaic_block(block, _TILES)

    def plan(self, sizes: Ints, rng: ViewRNG) -> Plan:
        """A grid of 2 x 2 tiles as large as the canvas, moved so that its middle is the center: N = B, K = 4."""
        self.check_block(rng.block)
        tiles = flatten(draw_tiles(sizes, rng, _TILES, self.scale, self.ratio, self.augmentation))
        slots = assign_slots(rng, _TILES)
        center = self.margin + (1 - 2 * self.margin) * rng.per_canvas("mosaic center", len(slots), 2)  # (N, 2)
        offset = np.rint(self.size * (center - 1)).astype(np.int64)
        return Plan(
            tiles=tiles,
            tile_size=self.size,
            slots=slots,
            offset=offset,
            canvas_size=self.size,
            regions=mosaic_regions(
                slots,
                tiles.image,
                offset,
                tile_size=self.size,
                canvas_size=self.size,
                weigh_visible=self.weigh_visible,
            ),
        )
