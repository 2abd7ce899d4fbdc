"""How pixels in [0, 1] become what a network sees: less a mean and over a standard deviation, channel by channel.

Legend: N images, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalize:
    """Per-channel mean and standard deviation of pixels in [0, 1]; the defaults are ImageNet's, for RGB.

    Attributes:
        mean: one a channel.
        std: one a channel, above 0.

    Raises:
        UserError: not as many deviations as means, or one that is not above 0.

    Example:
        >>> normalize = Normalize((0.5,), (0.25,))
        >>> normalize(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)).flatten()
        tensor([-2.,  2.])
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
            raise UserError(f"mean {self.mean} and std {self.std}", "one of each a channel, std above 0", "change them")

    @property
    def channels(self) -> int:
        """Of the images that it is for."""
        return len(self.mean)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) uint8, or float in [0, 1], -> normalized float, memory order kept."""
        if pixels.dtype != torch.uint8:
            mean, std = self._of(pixels)
            return (pixels - mean) / std
        unit = pixels.float().div_(255)  # in place, because memory fresh from the system costs more than the arithmetic
        mean, std = self._of(unit)
        return unit.sub_(mean).div_(std)

    def undo(self, pixels: Tensor) -> Tensor:
        """(..., C, H, W) normalized -> in [0, 1]."""
        mean, std = self._of(pixels)
        return pixels * std + mean

    def affine(self, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
        """The scale and shift, each (1, C, 1, 1) float32, that normalize pixels in [low, high] by one multiply-add.

        They are folded in float64, so that one rounding remains.
        """
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64).view(2, 1, -1, 1, 1)
        scale = 1 / ((high - low) * std)
        return scale.float(), (-low * scale - mean / std).float()

    def _of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each (C, 1, 1)."""
        if pixels.shape[-3] != self.channels:
            raise UserError(
                f"pixels of {pixels.shape[-3]} channels to normalize",
                f"{self.channels}, as the mean has",
                "give Normalize a mean and a std for every channel",
            )
        mean, std = (pixels.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        return mean, std


IMAGENET = Normalize()
