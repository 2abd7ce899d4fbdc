"""What the network sees: canvases, and the regions on them.

Boxes are xyxy in pixels of the canvas, right and bottom exclusive: the whole of a 224 px canvas is (0, 0, 224, 224).

Legend: N canvases, K regions on each, B images on this rank.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Where on each canvas which image is to be found.

    Attributes:
        source: (N, K) int64, position in this rank's batch of the image that fills the region.
        boxes: (N, K, 4) float32, xyxy pixels, clipped to the canvas.
        weight: (N, K) float32 >= 0, weight of the region in the loss; those of a canvas add up to 1, or to less where
            parts of it are not to be learned from.
        whole: every region is its whole canvas, so that nothing needs pooling.
        level: of a pyramid, 0 for the coarsest map.
        label: (N, K) int64, class of the image that fills the region; None where the data have no classes.
        index: (N, K) int64, number of that image in the data set; None where it is not known.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 16.0, 32.0], [16.0, 0.0, 32.0, 32.0]]])
        >>> regions = Regions(source=torch.tensor([[1, 0]]), boxes=boxes, weight=torch.full((1, 2), 0.5), whole=False)
        >>> regions.labeled(torch.tensor([7, 5])).label
        tensor([[5, 7]])
    """

    source: Tensor
    boxes: Tensor
    weight: Tensor
    whole: bool
    level: int = 0
    label: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same regions on another device."""
        return replace(
            self,
            source=self.source.to(device, non_blocking=True),
            boxes=self.boxes.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            label=None if self.label is None else self.label.to(device, non_blocking=True),
            index=None if self.index is None else self.index.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Self:
        """The same regions in page-locked memory, from which copies to a GPU need not be waited for."""
        return replace(
            self,
            source=self.source.pin_memory(),
            boxes=self.boxes.contiguous().pin_memory(),
            weight=self.weight.pin_memory(),
            label=None if self.label is None else self.label.pin_memory(),
            index=None if self.index is None else self.index.pin_memory(),
        )

    def labeled(self, labels: Tensor) -> Self:
        """The same regions with the classes of this rank's images, (B,) int64."""
        return replace(self, label=labels.to(self.source.device)[self.source])

    def numbered(self, indices: Tensor) -> Self:
        """The same regions with the numbers in the data set of this rank's images, (B,) int64."""
        return replace(self, index=indices.to(self.source.device)[self.source])


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Composed images and their regions.

    Attributes:
        pixels: (N, C, H, W) normalized pixels.
        regions: what is where.

    Example:
        >>> from smalti.views import Collate, Crop
        >>> (canvas,) = Collate([Crop(size=32)])([torch.rand(3, 40, 60) for _ in range(2)])
        >>> tuple(canvas.pixels.shape), canvas.regions.source.tolist()
        ((2, 3, 32, 32), [[0], [1]])
    """

    pixels: Tensor
    regions: Regions

    def to(self, device: torch.device | str) -> Self:
        """The same canvases on another device."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), regions=self.regions.to(device))

    def pin_memory(self) -> Self:
        """The same canvases in page-locked memory: what a `DataLoader` with `pin_memory=True` asks for."""
        return replace(self, pixels=self.pixels.pin_memory(), regions=self.regions.pin_memory())
