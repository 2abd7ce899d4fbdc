"""A projector for each half of a split network's features.

Legend: N views or regions, C channels of both halves, D embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.models.backbone import Features
from smalti.models.heads import ProjectorConfig


@dataclass(frozen=True, kw_only=True)
class SplitProjectorConfig:
    """Shape of a pair of projectors.

    Attributes:
        half: of each half.
        centered: embeddings have mean 0 and deviation 1 over the batch: batch normalization without weights.
    """

    half: ProjectorConfig
    centered: bool

    def build(self, channels: int) -> nn.Module:
        """For C channels: Features of N -> (N, 2 * D), the embeddings of lightness before those of color."""
        return SplitProjector(*(self._build_half(channels // 2) for _ in range(2)))

    def _build_half(self, channels: int) -> nn.Module:
        projector = self.half.build(channels)
        return nn.Sequential(projector, nn.BatchNorm1d(self.half.dim, affine=False)) if self.centered else projector


class SplitProjector(nn.Module):
    """Features of N, the channels of lightness before those of color, -> (N, 2 * D)."""

    def __init__(self, lightness: nn.Module, color: nn.Module) -> None:
        super().__init__()
        self.lightness = lightness
        self.color = color

    def forward(self, features: Features) -> Tensor:
        maps, pooled = features.map.chunk(2, dim=1), features.pooled.chunk(2, dim=1)
        lightness, color = (Features(*half) for half in zip(maps, pooled, strict=True))
        return torch.cat([self.lightness(lightness), self.color(color)], dim=1)
