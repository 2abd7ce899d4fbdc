"""DINO's head: cosines of a feature with many learned directions (arXiv:2104.14294, appendix C).

Legend: N views or regions, C channels of the backbone, H hidden width, D bottleneck, P prototypes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count
from smalti.models.backbone import Features
from smalti.precision import similarity, widen


@dataclass(frozen=True, kw_only=True)
class PrototypeHeadConfig:
    """Shape of DINO's head.

    Attributes:
        hidden: H, width of the hidden layers.
        bottleneck: D, width in which a feature has length 1.
        outputs: P, number of prototypes.
        norm: batch normalization after the hidden layers; published for neither ViTs nor the ResNet-50.
        norm_last: every prototype keeps length 1; otherwise its length is learned, from 1 on. The released code advises
            learned lengths for ViT-S alone: they score better there and make larger networks unstable.

    Example:
        >>> from smalti.models import Features, PrototypeHeadConfig
        >>> head = PrototypeHeadConfig(outputs=4096).build(384)
        >>> tuple(head(Features(torch.randn(2, 384, 14, 14), torch.randn(2, 384))).shape)
        (2, 4096)
    """

    hidden: int = 2048
    bottleneck: int = 256
    outputs: int = 65536
    norm: bool = False
    norm_last: bool = True

    def __post_init__(self) -> None:
        require_count(self, "hidden", "bottleneck")
        require_count(self, "outputs", least=2)

    def build(self, channels: int) -> "PrototypeHead":
        """A head for C channels: Features of N -> (N, P)."""
        return PrototypeHead(channels, self)


class PrototypeHead(nn.Module):
    """Three linear layers with GELU between them, length 1, then the weight-normalized prototypes, without bias."""

    def __init__(self, channels: int, config: PrototypeHeadConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.layers = nn.Sequential(
            *_hidden_layer(channels, hidden, config.norm),
            *_hidden_layer(hidden, hidden, config.norm),
            nn.Linear(hidden, config.bottleneck),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(config.bottleneck, config.outputs, bias=False)
        self.lengths = None if config.norm_last else nn.Parameter(torch.ones(config.outputs, 1))

    @property
    def last_layer(self) -> list[Tensor]:
        """The weights of the prototypes: their directions (P, D), and their lengths (P, 1) where these are learned."""
        return [self.prototypes.weight] if self.lengths is None else [self.prototypes.weight, self.lengths]

    def forward(self, features: Features) -> Tensor:
        z = self.layers(features.pooled)
        return similarity(F.normalize(widen(z), dim=1), self._prototypes())

    def _prototypes(self) -> Tensor:
        """(P, D)."""
        prototypes = F.normalize(self.prototypes.weight, dim=1)
        return prototypes if self.lengths is None else prototypes * self.lengths


def _hidden_layer(inputs: int, outputs: int, norm: bool) -> list[nn.Module]:
    normalize = [nn.BatchNorm1d(outputs)] if norm else []
    return [nn.Linear(inputs, outputs), *normalize, nn.GELU()]
