"""Two networks side by side, one for lightness and one for color (CMC, arXiv:1906.05849).

Legend: N images, C channels of both networks' maps together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.models.backbone import BackboneConfig
from smalti.models.color_spaces import SPACES
from smalti.models.timm_backbone import TimmBackbone


@dataclass(frozen=True, kw_only=True)
class SplitBackbone(BackboneConfig):
    """Two networks of one architecture, for the lightness and for the color of RGB images, features concatenated.

    Attributes:
        half: the architecture of each; CMC's has half the usual width.
        color_space: "lab" (L and ab) or "ycbcr" (Y and CbCr).
        in_channels: 3.

    Example:
        >>> from smalti.models import Backbone, SplitBackbone, TimmBackbone
        >>> Backbone(SplitBackbone(half=TimmBackbone(name="resnet18", width=0.5)).build()).dim
        512
    """

    half: TimmBackbone = field(default_factory=lambda: TimmBackbone(width=0.5))
    color_space: Literal["lab", "ycbcr"] = "lab"
    in_channels: int = 3

    def __post_init__(self) -> None:
        if self.in_channels != 3:
            raise UserError(f"{self.in_channels} channels to split into lightness and color", "RGB images", "use 3")

    @property
    def name(self) -> str:
        return f"{self.half.name} for lightness and color"

    @property
    def stem(self) -> str:
        return self.half.stem

    def build(self) -> "SplitModel":
        return SplitModel(lambda channels: replace(self.half, in_channels=channels).build(), self.color_space)


class SplitModel(nn.Module):
    """The methods of a timm model that `Backbone` calls: features of both networks, concatenated along the channels.

    It takes standardized RGB. The means and deviations that undo the standardization are buffers, and so are saved
    with the weights; until they are set, the images are taken as pixels in [0, 1].

    Args:
        create: timm model for a number of channels.
        space: "lab": L and ab; "ycbcr": Y and CbCr; both scaled as in CMC's released code.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, create: Callable[[int], Any], space: str) -> None:
        super().__init__()
        self.lightness = create(1)
        self.color = create(2)
        self._to_space = SPACES[space]
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        self.in_channels = 3
        self.num_features: int = 2 * self.lightness.num_features
        self.head_hidden_size = 2 * getattr(self.lightness, "head_hidden_size", self.lightness.num_features)
        self.feature_info = self.lightness.feature_info
        self.pretrained_cfg = self.lightness.pretrained_cfg
        self.num_prefix_tokens = getattr(self.lightness, "num_prefix_tokens", 0)
        self.output_fmt = getattr(self.lightness, "output_fmt", "NCHW")

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """How the images are standardized: three means and deviations of pixels in [0, 1]."""
        self.mean.copy_(torch.tensor(mean).view(3, 1, 1))
        self.std.copy_(torch.tensor(std).view(3, 1, 1))

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized RGB (N, 3, H, W) -> lightness (N, 1, H, W) and color (N, 2, H, W), each near [-1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            rgb = images.to(self.mean.dtype) * self.std + self.mean
            space = self._to_space(rgb.clamp(0, 1))  # noise and decayed pixels may lie outside
        return space[:, :1], space[:, 1:]

    def forward_features(self, images: Tensor) -> Tensor:
        lightness, color = self.split(images)
        both = (self.lightness.forward_features(lightness), self.color.forward_features(color))
        return torch.cat(both, dim=self._channel_dim(both[0]))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        lightness, color = features.chunk(2, dim=self._channel_dim(features))
        heads = (self.lightness.forward_head, lightness), (self.color.forward_head, color)
        return torch.cat([head(half, pre_logits=pre_logits) for head, half in heads], dim=1)

    def forward_intermediates(self, images: Tensor, **options: Any) -> tuple[Tensor, list[Tensor]]:
        lightness, color = self.split(images)
        (last, maps), (last_color, color_maps) = (
            network.forward_intermediates(half, **options)
            for network, half in ((self.lightness, lightness), (self.color, color))
        )
        both = torch.cat([last, last_color], dim=self._channel_dim(last))
        return both, [torch.cat(pair, dim=1) for pair in zip(maps, color_maps, strict=True)]

    def _channel_dim(self, features: Tensor) -> int:
        return 1 if features.ndim == 4 and self.output_fmt == "NCHW" else -1
