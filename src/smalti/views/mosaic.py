"""Mosaics: small crops of different images laid out as one view, and moved (MosRep, ICLR 2023, section 2.2).

Legend: B images on this rank, M small crops of each, N canvases, b images in a block.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from scipy.special import betaincinv

from smalti.errors import UserError
from smalti.views.canvas import Regions
from smalti.views.crops import Augmentation, check_crop, draw_tiles
from smalti.views.plan import Composition, Ints, Plan, flatten
from smalti.views.rng import ViewRNG


@dataclass(frozen=True, kw_only=True)
class Mosaic(Composition):
    """M small crops of every image, assigned to B canvases of sqrt(M) x sqrt(M) tiles, never two of one image.

    Attributes:
        tile_size: side of a small crop, pixels; a canvas measures sqrt(M) times as much.
        tiles: M, small crops of an image and tiles on a canvas: 1, 4 or 9.
        scale: range of a crop's share of its image's area.
        ratio: range of its width over its height.
        max_shift: theta, the furthest a canvas is moved either way, pixels; 0 switches the jitter off.
        alpha: of Beta(alpha, alpha), from which the shift is drawn (Eq. 5); below 1 large shifts are likely.
        weigh_visible: a region's weight is 1/K times the square root of its visible part, else 1/K (0 where nothing is
            left), K being the regions of a canvas.
        background: "images", or for appendix C's control "noise": every crop alone in a corner of its own canvas,
            the rest Gaussian noise (M times as many canvases).
        augmentation: what happens to each crop.

    Example:
        >>> from smalti.views import Collate, Mosaic
        >>> images = [torch.rand(3, 40, 60) for _ in range(8)]
        >>> (mosaics,) = Collate([Mosaic(tile_size=16, max_shift=4)])(images)
        >>> tuple(mosaics.pixels.shape), tuple(mosaics.regions.boxes.shape)
        ((8, 3, 32, 32), (8, 4, 4))
    """

    tile_size: int = 112
    tiles: Literal[1, 4, 9] = 4
    scale: tuple[float, float] = (0.1, 0.6)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    max_shift: int = 48
    alpha: float = 0.5
    weigh_visible: bool = True
    background: Literal["images", "noise"] = "images"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_crop(self.tile_size, self.scale, self.ratio, self.tiles)
        if self.tiles not in (1, 4, 9):
            raise UserError(f"a mosaic of {self.tiles} tiles", "1, 4 or 9", "change --views.N.tiles")
        if not 0 <= self.max_shift <= self.canvas_size:
            raise UserError(
                f"max_shift {self.max_shift} px",
                f"0 to the canvas's {self.canvas_size} px",
                "give a smaller shift",
            )
        if self.alpha <= 0:
            raise UserError(f"alpha {self.alpha}", "a number above 0", "use e.g. 0.5")

    @property
    def grid(self) -> int:
        """Tiles along a side of the canvas."""
        return math.isqrt(self.tiles)

    @property
    def canvas_size(self) -> int:
        return self.tile_size * self.grid

    def resized(self, factor: float) -> "Mosaic":
        return replace(self, tile_size=round(self.tile_size * factor), max_shift=round(self.max_shift * factor))

    def check_block(self, block: int) -> None:
        if self.background == "images":
            check_mosaic_block(block, self.tiles)

    def plan(self, sizes: Ints, rng: ViewRNG) -> Plan:
        """Algorithm 1 of appendix D, every canvas with its own jitter; N = B, K = M (noise: N = B * M, K = 1)."""
        tiles = flatten(draw_tiles(sizes, rng, self.tiles, self.scale, self.ratio, self.augmentation))
        self.check_block(rng.block)
        slots = self._lonely_slots(rng) if self.background == "noise" else assign_slots(rng, self.tiles)
        offset = self._draw_offset(rng, len(slots))
        return Plan(
            tiles=tiles,
            tile_size=self.tile_size,
            slots=slots,
            offset=offset,
            canvas_size=self.canvas_size,
            regions=mosaic_regions(
                slots,
                tiles.image,
                offset,
                tile_size=self.tile_size,
                canvas_size=self.canvas_size,
                weigh_visible=self.weigh_visible,
            ),
            background="noise" if self.background == "noise" else "zero",
            noise_key=(rng.per_canvas("noise", len(slots))[:, 0] * 2**62).astype(np.int64),
        )

    def _lonely_slots(self, rng: ViewRNG) -> Ints:
        """(N, G, G) every crop in a random cell of its own canvas, the other cells empty (-1)."""
        count = len(rng.images) * self.tiles
        cell = (rng.per_canvas("cells", count)[:, 0] * self.tiles).astype(np.int64)
        slots = np.full((count, self.tiles), -1, dtype=np.int64)
        slots[np.arange(count), cell] = np.arange(count)
        return slots.reshape(-1, self.grid, self.grid)

    def _draw_offset(self, rng: ViewRNG, canvases: int) -> Ints:
        """(N, 2) theta * (2u - 1) with u ~ Beta(alpha, alpha): Eq. 5, both ways as in the released code."""
        u = betaincinv(self.alpha, self.alpha, rng.per_canvas("jitter", canvases, 2))
        return np.rint(self.max_shift * (2 * u - 1)).astype(np.int64)


def check_mosaic_block(block: int, tiles: int) -> None:
    """Raise UserError where a block has fewer images than a mosaic has tiles."""
    if block < tiles:
        raise UserError(
            f"{block} images to deal mosaics of {tiles} tiles from",
            f"at least {tiles}, since no image may be on a canvas twice",
            "give a larger --batch-size or --block",
        )


def assign_slots(rng: ViewRNG, tiles: int) -> Ints:
    """(N, G, G) crop in each cell: each of an image's M on one canvas, each canvas with crops of M different images."""
    assigned = np.concatenate(
        [
            assign_tiles(rng, block, tiles) + start * tiles
            for start, block in zip(range(0, len(rng.images), rng.block), rng.blocks(), strict=True)
        ]
    )
    cells = rng.per_canvas("cells", len(assigned), tiles).argsort(axis=1)
    grid = math.isqrt(tiles)
    return np.take_along_axis(assigned, cells, axis=1).reshape(-1, grid, grid)


def mosaic_regions(
    slots: Ints, image: Ints, offset: Ints, *, tile_size: int, canvas_size: int, weigh_visible: bool
) -> Regions:
    """What is seen of the tiles of every canvas, by rows of its grid.

    Args:
        slots: (N, G, G) tile in each cell; -1 for none.
        image: (T,) of each tile.
        offset: (N, 2) by which the grid is moved, pixels.
        tile_size: side of a tile, pixels.
        canvas_size: side of a canvas, pixels.
        weigh_visible: weigh a region by the square root of its visible part, else by 1 (0 where nothing is left).
    """
    cells = np.arange(slots.shape[1]) * tile_size
    x0 = offset[:, 0, None, None] + cells[None, None, :]  # (N, 1, G)
    y0 = offset[:, 1, None, None] + cells[None, :, None]  # (N, G, 1)
    x0, y0 = np.broadcast_arrays(x0, y0)
    boxes = np.stack([x0, y0, x0 + tile_size, y0 + tile_size], axis=-1)  # Eq. 6
    filled = slots >= 0
    boxes = boxes[filled].clip(0, canvas_size).reshape(len(slots), -1, 4)
    visible = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / tile_size**2
    weight = np.sqrt(visible) if weigh_visible else (visible > 0).astype(np.float64)
    return Regions(
        source=torch.from_numpy(image[slots[filled]].reshape(len(slots), -1)),
        boxes=torch.from_numpy(boxes).float(),
        weight=torch.from_numpy(weight / weight.shape[1]).float(),
        whole=False,
    )


def assign_tiles(rng: ViewRNG, block: int, crops: int) -> Ints:
    """(b, M) crops assigned to the canvases of one block of b images, M of each; crop j of image i is i * M + j.

    Crop j of image i goes to canvas i + s_j with M different shifts s_j, images and canvases numbered at random: so
    the crops of an image lie on M canvases, and a canvas holds crops of M images. A block has at least M images.
    """
    images = rng.block
    image_at = rng.block_permutation("images", block, images)  # (b,)
    canvas_at = rng.block_permutation("canvases", block, images)
    shift = rng.block_permutation("shifts", block, images)[:crops]  # (M,) different
    position = np.arange(images)[:, None]
    canvas = canvas_at[(position + shift) % images]  # (b, M): canvas of crop j of the image at each position
    crop = image_at[:, None] * crops + np.arange(crops)
    order = np.argsort(canvas, axis=None, kind="stable")
    return crop.reshape(-1)[order].reshape(images, crops)
