"""Projectors: from features to the embeddings that a loss compares.

Legend: N views or regions, C channels of the backbone, H hidden width, D embedding.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from smalti.errors import UserError
from smalti.models.backbone import Features


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Shape of a projector.

    Attributes:
        kind: "conv", of the released MosRep code; "mlp", of MoCo-v2.
        hidden: H, width of the hidden layers; 0 for the backbone's own width.
        dim: D, width of the embedding.
    """

    kind: Literal["conv", "mlp"] = "mlp"
    hidden: int = 0
    dim: int = 128

    def __post_init__(self) -> None:
        if self.hidden < 0 or self.dim < 1:
            raise UserError(f"projector widths {self.hidden} and {self.dim}", "0 or more, 1 or more", "give wider ones")

    def build(self, channels: int) -> nn.Module:
        """A projector for C channels: Features of N -> (N, D)."""
        hidden = self.hidden or channels
        return (ConvProjector if self.kind == "conv" else MLPProjector)(channels, hidden, self.dim)


class MLPProjector(nn.Module):
    """Linear, ReLU, Linear on the pooled feature (MoCo-v2, arXiv:2003.04297)."""

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.pooled)


class ConvProjector(nn.Module):
    """A 1x1 convolution on the map, average pooling, then Linear, ReLU, Linear (MosRep's released code)."""

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)
        )
        self.layers = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def forward(self, features: Features) -> Tensor:
        return self.layers(self.mix(features.map).mean(dim=(2, 3)))
