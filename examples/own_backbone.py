"""A backbone of your own: smalti pretrain DATA --out RUN --recipe examples/own_backbone.py --backbone.depth 6

Its fields become options. `smalti evaluate ... RUN --backbone examples/own_backbone.py` builds it again.
"""

from dataclasses import dataclass, replace

from torch import nn

from smalti import Recipe, get_recipe
from smalti.models import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class ConvMixer(BackboneConfig):
    """Patches, then depthwise and pointwise convolutions in turn (arXiv:2201.09792).

    Attributes:
        width: channels.
        depth: blocks.
        patch: side of a patch, pixels.
        in_channels: of the images.
    """

    width: int = 64
    depth: int = 4
    patch: int = 4
    in_channels: int = 3

    def build(self) -> nn.Module:
        """Images (N, in_channels, H, W) -> map (N, width, H / patch, W / patch)."""
        layers = [nn.Conv2d(self.in_channels, self.width, self.patch, stride=self.patch)]
        for _ in range(self.depth):
            layers += [
                nn.Conv2d(self.width, self.width, 5, padding=2, groups=self.width, bias=False),
                nn.BatchNorm2d(self.width),
                nn.GELU(),
                nn.Conv2d(self.width, self.width, 1, bias=False),
                nn.BatchNorm2d(self.width),
                nn.GELU(),
            ]
        return nn.Sequential(*layers)


def recipe() -> Recipe:
    """MosRep's small recipe on it."""
    return replace(get_recipe("mosrep_moco_small"), name="own_backbone", backbone=ConvMixer())
