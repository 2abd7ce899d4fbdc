"""A plan: every parameter of a batch of views, drawn before a pixel is touched.

A plan is a grid of tiles on each canvas, moved by an offset. A crop is a grid of one tile, a mosaic of 2 x 2, a montage
of 2^s x 2^s. Two executors render the same plan: `render_host` and `render_device`.

Legend: T tiles, N canvases, G tiles along a canvas's side, B images on this rank.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from smalti.views.canvas import Canvas, Regions
from smalti.views.rng import ViewRNG

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How each of T tiles is made from an image of the batch.

    Attributes:
        image: (T,) position in this rank's batch.
        crop: (T, 4) xyxy, whole pixels of the source image, right and bottom exclusive.
        bicubic: (T,) resized by bicubic interpolation, else by bilinear; antialiased in either case.
        flip: (T,) mirrored left to right.
        sigma: (T,) of the Gaussian blur, pixels of the tile as it is made, before any is left out; 0 for none.
        brightness: (T,) factor; 1 for none.
        shift: (T,) what is added to values in [0, 1] to change their brightness; 0 for none.
        contrast: (T,) factor; 1 for none.
        saturation: (T,) factor; 1 for none.
        hue: (T,) turn of the color wheel in [-0.5, 0.5]; 0 for none.
        contrast_last: (T,) contrast comes after hue.
        saturation_last: (T,) saturation comes after hue.
        gray: (T,) turned to gray.
        solarize: (T,) values from this threshold in [0, 1] up are inverted; 2 for none.

    Example:
        >>> from smalti.views import Crop, ViewRNG
        >>> rng = ViewRNG(seed=0, epoch=0, step=0, view=0, images=np.arange(2), first=0, block=2)
        >>> tiles = Crop(size=32, count=3).plan(np.array([[60, 40], [60, 40]]), rng).tiles
        >>> tiles.image.tolist(), tiles.crop.shape
        ([0, 0, 0, 1, 1, 1], (6, 4))
    """

    image: Ints
    crop: Ints
    bicubic: Bools
    flip: Bools
    sigma: Floats
    brightness: Floats
    shift: Floats
    contrast: Floats
    saturation: Floats
    hue: Floats
    contrast_last: Bools
    saturation_last: Bools
    gray: Bools
    solarize: Floats

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Tiles, their places, and the regions that result.

    Attributes:
        tiles: the T tiles.
        tile_size: side of a tile, pixels.
        slots: (N, G, G) which tile lies in which cell of a canvas's grid; -1 for none.
        offset: (N, 2) x and y by which the grid is moved on its canvas, pixels; what leaves the canvas is lost.
        canvas_size: side of a canvas, pixels.
        regions: what is where.
        stride: tiles are made so many times as large, and every stride-th of their rows and columns is kept, from the
            first on; 1 for all.
        background: what fills pixels that no tile covers, after normalization: zeros, or Gaussian noise of mean 0
            and deviation 1.
        noise_key: (N,) seeds of the noise.

    Example:
        >>> from smalti.views import Mosaic, ViewRNG
        >>> rng = ViewRNG(seed=0, epoch=0, step=0, view=0, images=np.arange(8), first=0, block=8)
        >>> plan = Mosaic(tile_size=16, max_shift=4).plan(np.full((8, 2), 40), rng)
        >>> plan.slots.shape, plan.num_canvases, plan.canvas_size
        ((8, 2, 2), 8, 32)
    """

    tiles: Tiles
    tile_size: int
    slots: Ints
    offset: Ints
    canvas_size: int
    regions: Regions
    stride: int = 1
    background: Literal["zero", "noise"] = "zero"
    noise_key: Ints | None = None

    @property
    def num_canvases(self) -> int:
        return len(self.slots)

    @property
    def covered(self) -> bool:
        """Tiles cover every pixel of every canvas."""
        return not self.offset.any() and bool((self.slots >= 0).all())

    def corners(self) -> Ints:
        """(T, 3) the canvas of each tile and x, y of its top left corner there, pixels; may lie outside."""
        canvas, row, column = np.nonzero(self.slots >= 0)
        corners = np.empty((len(self.tiles), 3), dtype=np.int64)
        tile = self.slots[canvas, row, column]
        corners[tile, 0] = canvas
        corners[tile, 1] = column * self.tile_size + self.offset[canvas, 0]
        corners[tile, 2] = row * self.tile_size + self.offset[canvas, 1]
        return corners


@dataclass(frozen=True)
class Composition(ABC):
    """A way of composing a batch of images: subclass it as a frozen dataclass whose fields are settings.

    The regions of a plan are what a method learns from. Losses are summed over the regions of a canvas by their weights
    and averaged over canvases, so the weights of a canvas add up to 1 (a whole canvas 1, each of M tiles 1/M, two mixed
    images lambda and 1 - lambda), or to less where parts of it are not to be learned from.

    Example:
        >>> from dataclasses import replace
        >>> from smalti.views import Collate, Composition, Crop
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Darkened(Composition):
        ...     crop: Crop = Crop(size=32)
        ...     by: float = 0.5
        ...
        ...     @property
        ...     def canvas_size(self):
        ...         return self.crop.size
        ...
        ...     def resized(self, factor):
        ...         return replace(self, crop=self.crop.resized(factor))
        ...
        ...     def plan(self, sizes, rng):
        ...         return self.crop.plan(sizes, rng)
        ...
        ...     def apply(self, canvas, plan):
        ...         return replace(canvas, pixels=canvas.pixels - self.by)
        >>> (canvas,) = Collate([Darkened()])([np.zeros((40, 60, 3), dtype=np.uint8)])
        >>> tuple(canvas.pixels.shape)
        (1, 3, 32, 32)
    """

    @property
    @abstractmethod
    def canvas_size(self) -> int:
        """Side of a canvas, pixels."""

    @property
    def standard(self) -> bool:
        """Each image has one canvas of its own, in the order of the batch: fit to be a standard view."""
        return False

    @property
    def level(self) -> int:
        """Level of the feature pyramid on which the regions are read; 0 is the coarsest map."""
        return 0

    @abstractmethod
    def resized(self, factor: float) -> Self:
        """The same composition with every length in pixels scaled."""

    @abstractmethod
    def plan(self, sizes: Ints, rng: ViewRNG) -> Plan:
        """Draw everything that is random about the views of B images of `sizes` (B, 2: width, height; pixels)."""

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        """What is left to do on the rendered, normalized canvases; nothing random happens here."""
        return canvas

    def check_block(self, block: int) -> None:
        """Raise UserError where tiles of `block` images cannot be assigned to canvases."""
        return


def flatten(tiles: dict[str, NDArray]) -> Tiles:
    """Arrays (B, crops, ...) -> Tiles, image by image."""
    return Tiles(**{field.name: _merge(tiles[field.name]) for field in fields(Tiles)})


def _merge(array: NDArray) -> NDArray:
    return array.reshape(-1, *array.shape[2:])
