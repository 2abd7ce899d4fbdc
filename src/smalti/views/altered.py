"""What the compositions that change finished crops have in common.

Legend: N canvases, one an image, L side of a canvas.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from smalti.views.crops import Augmentation, Crop, check_crop
from smalti.views.plan import Composition, Ints, Plan
from smalti.views.rng import ViewRNG


@dataclass(frozen=True, kw_only=True)
class AlteredCrop(Composition):
    """One crop of every image, which `apply` of a subclass then changes.

    Attributes:
        size: side of the view, pixels.
        scale: range of the crop's share of the image's area.
        ratio: range of its width over its height.
        augmentation: what happens to it before it is changed.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_crop(self.size, self.scale, self.ratio, count=1)

    @property
    def canvas_size(self) -> int:
        return self.size

    @property
    def standard(self) -> bool:
        return True

    def resized(self, factor: float) -> Self:
        return replace(self, size=round(self.size * factor))

    def plan_crops(self, sizes: Ints, rng: ViewRNG) -> Plan:
        """The plan of the crops before they are changed: that of `Crop` with the same settings and draws."""
        crop = Crop(size=self.size, scale=self.scale, ratio=self.ratio, augmentation=self.augmentation)
        return crop.plan(sizes, rng)


def inside(boxes: Ints, pixels: Tensor) -> Tensor:
    """(N, 1, L, L) whether a pixel of canvases (N, C, L, L) lies in its canvas's box (N, 4: xyxy)."""
    place = torch.arange(pixels.shape[-1], device=pixels.device)
    x0, y0, x1, y1 = torch.from_numpy(boxes).to(pixels.device)[..., None].unbind(dim=1)  # each (N, 1)
    x, y = (place >= x0) & (place < x1), (place >= y0) & (place < y1)  # (N, L)
    return (y[:, :, None] & x[:, None, :])[:, None]
