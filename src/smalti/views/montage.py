"""Montages: shrunk images of a batch laid out edge to edge as one view (MCL, section 3.1, Algorithm 1).

Legend: B images on this rank, R crops of each, N canvases, G = 2^s tiles along a canvas's side, b images in a block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from smalti.errors import UserError
from smalti.views.canvas import Canvas, Regions
from smalti.views.crops import Augmentation, check_crop, draw_tiles
from smalti.views.plan import Composition, Ints, Plan, flatten
from smalti.views.rng import ViewRNG


@dataclass(frozen=True, kw_only=True)
class Montage(Composition):
    """Every image shrunk by 2^s and assigned `repeats` times to canvases of 2^s x 2^s tiles, as large as a plain view.

    Algorithm 1 augments a view of full size and then keeps every 2^s-th of its rows and columns, from the first on
    (`interpolate(scale_factor=1 / ratio)`, as in the released code): "nearest". With "area" the crop is resized once
    and antialiased, to its tile, which is then augmented, for a 4^s-th of the work. But for aliasing the two nearly
    agree in all that is linear.

    Attributes:
        size: side of a canvas, pixels; a multiple of 2^s.
        level: s, 0 or more; 0 is a plain crop, which needs no assignment.
        repeats: R, crops of every image (2 on the released code's level 3).
        scale: range of a crop's share of its image's area.
        ratio: range of its width over its height.
        shrink: "nearest", of Algorithm 1, or "area".
        smooth: k of the boundary smoothing: every tile is multiplied by a Gaussian mask of standard deviation k times
            its side (published: 0.5 and 0.75, neither helps); 0 for none.
        augmentation: what happens to each crop; `sigma` is in pixels of the full-size view.

    Example:
        >>> from smalti.views import Collate, Montage
        >>> images = [torch.rand(3, 40, 60) for _ in range(8)]
        >>> (montages,) = Collate([Montage(size=32, level=1)])(images)
        >>> tuple(montages.pixels.shape), montages.regions.level
        ((2, 3, 32, 32), 1)
    """

    size: int = 224
    level: int = 1
    repeats: int = 1
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shrink: Literal["nearest", "area"] = "nearest"
    smooth: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.level < 0 or self.smooth < 0:
            raise UserError(f"level {self.level}, smooth {self.smooth}", "0 or more", "raise the one below")
        if self.shrink not in ("nearest", "area"):
            raise UserError(f"shrink {self.shrink!r}", "'nearest' or 'area'", "use one of them")
        if self.size % self.grid:
            raise UserError(
                f"a montage of {self.size} px with {self.grid} tiles along its side",
                "a whole number of pixels a tile",
                f"use e.g. a size of {max(self.size // self.grid, 8) * self.grid} px",
            )
        check_crop(self.tile_size, self.scale, self.ratio, self.repeats)

    @property
    def grid(self) -> int:
        """Tiles along a side of the canvas."""
        return 2**self.level

    @property
    def tile_size(self) -> int:
        return self.size // self.grid

    @property
    def canvas_size(self) -> int:
        return self.size

    @property
    def standard(self) -> bool:
        return self.level == 0 and self.repeats == 1

    def resized(self, factor: float) -> "Montage":
        return replace(self, size=round(self.tile_size * factor) * self.grid)

    def check_block(self, block: int) -> None:
        cells = self.grid**2
        step = cells // math.gcd(cells, self.repeats)
        if block % step:
            raise UserError(
                f"{block} images, {self.repeats} of each, to deal montages of {cells} tiles from",
                "a whole number of montages",
                f"give a --batch-size, and a --block if any, that is a multiple of {step}",
            )

    def plan(self, sizes: Ints, rng: ViewRNG) -> Plan:
        """Algorithm 1 for one level: N = B * R / G^2, K = G^2."""
        self.check_block(rng.block)
        stride = self.grid if self.shrink == "nearest" else 1
        drawn = draw_tiles(sizes, rng, self.repeats, self.scale, self.ratio, self.augmentation)
        drawn["sigma"] = drawn["sigma"] * stride / self.grid
        tiles, slots = flatten(drawn), self._draw_slots(rng)
        return Plan(
            tiles=tiles,
            tile_size=self.tile_size,
            slots=slots,
            offset=np.zeros((len(slots), 2), dtype=np.int64),
            canvas_size=self.size,
            regions=self._regions(tiles.image[slots].reshape(len(slots), -1)),
            stride=stride,
        )

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        """Boundary smoothing, exp(-(x^2 + y^2) / 2 (k * side)^2) about every tile's center, where it is 1.

        It multiplies normalized pixels, so tiles fade towards the mean color of the data.
        """
        if self.smooth == 0:
            return canvas
        place = (torch.arange(self.tile_size, dtype=torch.float64) + 0.5) / self.tile_size - 0.5  # of pixels, in tiles
        fade = torch.exp(-((place / self.smooth) ** 2) / 2).repeat(self.grid)  # (L,)
        return replace(canvas, pixels=canvas.pixels * (fade[:, None] * fade).to(canvas.pixels))

    def _draw_slots(self, rng: ViewRNG) -> Ints:
        """(N, G, G) tile in each cell."""
        if self.level == 0:
            return np.arange(len(rng.images) * self.repeats).reshape(-1, 1, 1)
        starts = range(0, len(rng.images) * self.repeats, rng.block * self.repeats)
        assigned = [
            assign_tiles(rng, block, self.repeats, self.grid**2) + start
            for start, block in zip(starts, rng.blocks(), strict=True)
        ]
        canvases = np.concatenate(assigned)  # (N, G^2)
        cells = rng.per_canvas("cells", *canvases.shape).argsort(axis=1)
        return np.take_along_axis(canvases, cells, axis=1).reshape(-1, self.grid, self.grid)

    def _regions(self, source: Ints) -> Regions:
        """Of canvases whose cells, row by row, show the images `source` (N, G^2)."""
        row, column = np.divmod(np.arange(self.grid**2), self.grid)
        corner = np.stack([column, row], axis=1) * self.tile_size
        boxes = torch.from_numpy(np.concatenate([corner, corner + self.tile_size], axis=1)).float()  # (G^2, 4)
        return Regions(
            source=torch.from_numpy(source),
            boxes=boxes.expand(len(source), -1, 4),
            weight=torch.full(source.shape, 1 / source.shape[1]),
            whole=self.level == 0,
            level=self.level,
        )


def assign_tiles(rng: ViewRNG, block: int, repeats: int, cells: int) -> Ints:
    """(b * R / cells, cells) crops of one block of b images on its canvases; crop j of image i is i * R + j.

    The images are taken in a random order, R times, and every `cells` of them make a canvas. The order changes only
    where a canvas ends: so those on a canvas are all different if the block has as many, and else as evenly there as
    can be.
    """
    rounds = cells // math.gcd(rng.block, cells)  # after which a canvas ends
    order = [rng.block_permutation("images", block, rng.block, draw - draw % rounds) for draw in range(repeats)]
    return (np.stack(order) * repeats + np.arange(repeats)[:, None]).reshape(-1, cells)


def check_levels(views: Sequence[Composition], levels: int) -> None:
    """Raise UserError unless the views have regions on each of so many levels and on no other."""
    found = sorted({view.level for view in views})
    if found != list(range(levels)):
        raise UserError(
            f"views of level {', '.join(map(str, found))} for a pyramid of {levels}",
            f"some on every level from 0 to {levels - 1}",
            "change the views' levels, or those of the method",
        )
