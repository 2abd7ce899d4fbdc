"""Projectors: from features to the embeddings that a loss compares.

Legend: N views or regions, C channels of the backbone, H hidden width, D embedding.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from smalti.checks import require_count
from smalti.models.backbone import Features


class HeadConfig(Protocol):
    """Settings of a head, the layers after a backbone."""

    def build(self, channels: int) -> nn.Module:
        """For C channels: Features of N -> (N, D)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """Shape of a projector.

    Attributes:
        kind: "conv", of the released MosRep code; "mlp", of MoCo-v2; "linear", of the first MoCo.
        hidden: H, width of the hidden layers, if any; 0 for the backbone's own width.
        dim: D, width of the embedding.
        norm: batch normalization after the first linear layer, as in BYOL.

    Example:
        >>> from smalti.models import Features, ProjectorConfig
        >>> projector = ProjectorConfig(dim=128).build(512)
        >>> tuple(projector(Features(torch.randn(2, 512, 7, 7), torch.randn(2, 512))).shape)
        (2, 128)
    """

    kind: Literal["conv", "mlp", "linear"] = "mlp"
    hidden: int = 0
    dim: int = 128
    norm: bool = False

    def __post_init__(self) -> None:
        require_count(self, "hidden", least=0)
        require_count(self, "dim")

    def build(self, channels: int) -> nn.Module:
        """A projector for C channels: Features of N -> (N, D)."""
        hidden = self.hidden or channels
        if self.kind == "linear":
            return LinearProjector(channels, self.dim)
        return (ConvProjector if self.kind == "conv" else MLPProjector)(channels, hidden, self.dim, self.norm)


class LinearProjector(nn.Module):
    """One linear layer on the pooled feature (MoCo, arXiv:1911.05722)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Linear(channels, dim)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.pooled)


class MLPProjector(nn.Module):
    """`mlp` on the pooled feature (MoCo-v2, arXiv:2003.04297; with normalization BYOL, arXiv:2006.07733)."""

    def __init__(self, channels: int, hidden: int, dim: int, norm: bool) -> None:
        super().__init__()
        self.layers = mlp(channels, hidden, dim, norm)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.pooled)


class ConvProjector(nn.Module):
    """A 1x1 convolution on the map, average pooling, then `mlp` (MosRep's released code)."""

    def __init__(self, channels: int, hidden: int, dim: int, norm: bool) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)
        )
        self.layers = mlp(hidden, hidden, dim, norm)

    def forward(self, features: Features) -> Tensor:
        return self.layers(self.mix(features.map).mean(dim=(2, 3)))


def mlp(inputs: int, hidden: int, outputs: int, norm: bool) -> nn.Sequential:
    """Linear, batch normalization if `norm`, ReLU, Linear: (N, inputs) -> (N, outputs); BYOL's predictor too."""
    normalize = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(inputs, hidden), *normalize, nn.ReLU(inplace=True), nn.Linear(hidden, outputs))
