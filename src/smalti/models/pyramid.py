"""Backbone, feature pyramid and a head: each canvas is read at its own level (MCL, section 3.2).

Level 0 is the coarsest map and every further one twice as fine. So a tile shrunk by 2^s, read at level s, has as many
cells as a whole canvas at level 0.

Legend: N canvases, K regions on each, C channels of a map, r cells along a region, D embedding.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from smalti.errors import UserError
from smalti.models.backbone import Backbone, Features, as_backbone, halving
from smalti.models.heads import HeadConfig
from smalti.models.network import by_canvas
from smalti.models.regions import pool_regions
from smalti.views.canvas import Canvas

_CONVS = 4  # of the dense head, as of Detectron2's box head
_MOST_STAGES = 4


class PyramidNetwork(nn.Module):
    """Canvases to one embedding a region, each canvas read from the map of its level.

    Args:
        backbone: the encoder, any network that `Backbone` can read.
        head: applied to the cells of one region at a time.
        levels: of the pyramid, the coarsest stages of the backbone.
        channels: width of the FPN; 0 for none (arXiv:1612.03144), the last map then being resized to every level.
        region_size: r, cells along a region.

    Raises:
        UserError: an FPN on a backbone without as many stages, each half as fine as the one before.
    """

    def __init__(self, backbone: nn.Module, head: HeadConfig, levels: int, channels: int, region_size: int) -> None:
        super().__init__()
        self.backbone = as_backbone(backbone)
        self.fpn = _build_fpn(self.backbone, levels, channels) if channels else None
        self.head = head.build(channels or self.backbone.dim)
        self.region_size = region_size
        self.backbone.freeze_pooling()

    def forward(self, canvas: Canvas) -> Tensor:
        """Canvas -> (N, K, D) embeddings, of any length, at least 32 bits wide, in the order of the regions."""
        return by_canvas(self.head(self.encode(canvas)), canvas.regions)

    def encode(self, canvas: Canvas) -> Features:
        """Features of N whole canvases, or of N * K regions: map (., C, r, r) and its mean, pooled (., C)."""
        regions = canvas.regions
        maps = self.read(canvas.pixels, regions.level)
        if regions.whole:
            return Features(map=maps, pooled=maps.mean(dim=(2, 3)))
        return pool_regions(maps, regions, canvas.pixels.shape[-1], self.region_size)

    def read(self, images: Tensor, level: int) -> Tensor:
        """(N, in_channels, H, W) -> the map of one level (N, C, h, w); finer ones are not computed."""
        if self.fpn is None:
            last = self.backbone(images).map
            return F.interpolate(last, scale_factor=2**level, mode="bilinear") if level else last
        *finer, last = self.backbone.pyramid(images)
        top = self.fpn.inner_blocks[-1](last)
        for step in range(1, level + 1):
            lateral = self.fpn.inner_blocks[-1 - step](finer[-step])
            top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
        return self.fpn.layer_blocks[-1 - level](top)


def _build_fpn(backbone: Backbone, levels: int, channels: int) -> FeaturePyramidNetwork:
    stages = backbone.stages()[-_MOST_STAGES:][-levels:]
    if len(stages) < levels or not halving(stages):
        raise UserError(
            f"an FPN of {levels} levels on {type(backbone.model).__name__}",
            f"that many stages of halving size, and no more than {_MOST_STAGES}",
            "use fewer levels, or fpn=False",
        )
    return FeaturePyramidNetwork([stage.channels for stage in stages], channels, norm_layer=nn.BatchNorm2d)


@dataclass(frozen=True, kw_only=True)
class DenseHeadConfig:
    """Shape of MCL's head.

    Attributes:
        channels: of its convolutions.
        hidden: width of the projector's hidden layer.
        dim: D, width of the embedding.
    """

    channels: int = 256
    hidden: int = 2048
    dim: int = 256

    def build(self, channels: int) -> nn.Module:
        """For maps of `channels`: Features of N -> (N, D)."""
        return DenseHead(channels, self)


class DenseHead(nn.Module):
    """Four 3x3 convolutions, average pooling, and MCL's projector g (released code)."""

    def __init__(self, inputs: int, config: DenseHeadConfig) -> None:
        super().__init__()
        widths = [inputs, *[config.channels] * _CONVS]
        self.convs = nn.Sequential(*[Conv2dNormActivation(*pair, kernel_size=3) for pair in pairwise(widths)])
        self.projector = nn.Sequential(
            nn.Linear(config.channels, config.hidden, bias=False),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.dim, bias=False),
            nn.BatchNorm1d(config.dim, affine=False),
        )

    def forward(self, features: Features) -> Tensor:
        return self.projector(self.convs(features.map).mean(dim=(2, 3)))
