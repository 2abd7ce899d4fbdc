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
        weight: (N, K) float32 >= 0, weight of the region in the loss.
        whole: every region is its whole canvas, so that nothing needs pooling.
        level: of a pyramid, 0 for the coarsest map.
        label: (N, K) int64, class of the image that fills the region; None where the data have no classes.
    """

    source: Tensor
    boxes: Tensor
    weight: Tensor
    whole: bool
    level: int = 0
    label: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same regions on another device."""
        return replace(
            self,
            source=self.source.to(device, non_blocking=True),
            boxes=self.boxes.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            label=None if self.label is None else self.label.to(device, non_blocking=True),
        )

    def labeled(self, labels: Tensor) -> Self:
        """The same regions with the classes of this rank's images, (B,) int64."""
        return replace(self, label=labels.to(self.source.device)[self.source])


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Composed images and their regions.

    Attributes:
        pixels: (N, C, H, W) normalized pixels.
        regions: what is where.
    """

    pixels: Tensor
    regions: Regions
