"""Backbone, feature pyramid and a head: every canvas is read at its own level (MCL, arXiv:2304.02010, section 3.2).

Level 0 is the coarsest map and every further one twice as fine. So a tile shrunk by 2^s, read at level s, has as many
cells as a whole canvas at level 0.

Legend: N canvases, K regions on each, C channels of a map, r cells along a region, D embedding.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from smalti.errors import UserError
from smalti.models.backbone import Backbone, Features, as_backbone, halving
from smalti.models.heads import HeadConfig
from smalti.models.network import by_canvas
from smalti.models.regions import pool_regions
from smalti.views.canvas import Canvas, Regions

_CONVS = 4  # of the dense head, as of Detectron2's box head
_MOST_STAGES = 4


class PyramidNetwork(nn.Module):
    """Canvases to one embedding a region, each canvas read from the map of its level.

    Canvases of one size go through backbone and FPN together, so that batch normalization sees all levels at once
    (released code).

    Args:
        backbone: the encoder, any network that `Backbone` can read.
        head: maps the features of a region, cut out of the map, to its embedding.
        levels: of the pyramid, the coarsest stages of the backbone.
        channels: width of the FPN; 0 for none (arXiv:1612.03144), the last map then being resized to every level.
        region_size: r, cells along a region.
        head_reads_all: at every level the head also reads the canvases of the other levels, cut into the level's grid
            of 2^s x 2^s cells, for its batch statistics alone (released code); else each canvas at its own level only.

    Raises:
        UserError: an FPN on a backbone without as many stages, each half as fine as the one before.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: HeadConfig,
        levels: int,
        channels: int,
        region_size: int,
        head_reads_all: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = as_backbone(backbone)
        self.fpn = _build_fpn(self.backbone, levels, channels) if channels else None
        self.head = head.build(channels or self.backbone.dim)
        self.region_size = region_size
        self.head_reads_all = head_reads_all
        self.backbone.freeze_pooling()

    def forward(self, canvases: Sequence[Canvas], levels: Collection[int] | None = None) -> list[Tensor]:
        """(N, K, D) embeddings of each of the canvases, in their order; of any length, at least 32 bits wide.

        Args:
            canvases: one or more of any level.
            levels: embed the canvases of these levels only; batch normalization sees the others all the same.
        """
        embeddings: dict[int, Tensor] = {}
        for size in dict.fromkeys(canvas.pixels.shape[-1] for canvas in canvases):
            group = {number: canvas for number, canvas in enumerate(canvases) if canvas.pixels.shape[-1] == size}
            present = {canvas.regions.level for canvas in group.values()}
            embeddings |= self._embed(group, present if levels is None else present.intersection(levels))
        return [embeddings[number] for number in sorted(embeddings)]

    def maps(self, images: Tensor, finest: int) -> list[Tensor]:
        """(N, in_channels, H, W) -> the maps of levels 0 to `finest`, each (N, C, h, w); no finer ones are computed."""
        if self.fpn is None:
            last = self.backbone(images).map
            finer = [F.interpolate(last, scale_factor=2**level, mode="bilinear") for level in range(1, finest + 1)]
            return [last, *finer]
        *stages, last = self.backbone.pyramid(images)
        merged = [self.fpn.inner_blocks[-1](last)]
        for level in range(1, finest + 1):
            lateral = self.fpn.inner_blocks[-1 - level](stages[-level])
            merged.append(lateral + F.interpolate(merged[-1], size=lateral.shape[-2:], mode="nearest"))
        return [self.fpn.layer_blocks[-1 - level](each) for level, each in enumerate(merged)]

    def cut(self, maps: Sequence[Tensor], regions: Sequence[Regions], canvas_size: int) -> list[Features]:
        """The regions' features, from one map (N, C, h, w) for each entry of `regions`, on canvases of so many pixels.

        Where every region of all entries is its whole canvas these are the maps as they are; else N * K regions each,
        map (N*K, C, r, r) and its mean, pooled (N*K, C).
        """
        if all(each.whole for each in regions):
            return [Features(map=each, pooled=each.mean(dim=(2, 3))) for each in maps]
        return [
            pool_regions(each, where, canvas_size, self.region_size) for each, where in zip(maps, regions, strict=True)
        ]

    def _embed(self, canvases: dict[int, Canvas], levels: Collection[int]) -> dict[int, Tensor]:
        """Of canvases of one size, the embeddings of those of some levels, by their keys."""
        if not levels:
            return {}
        pixels = [canvas.pixels for canvas in canvases.values()]
        pyramid = self.maps(torch.cat(pixels), max(levels))
        embeddings: dict[int, Tensor] = {}
        for level in levels:
            maps = dict(zip(canvases, pyramid[level].split([len(each) for each in pixels]), strict=True))
            own = {key: canvas.regions for key, canvas in canvases.items() if canvas.regions.level == level}
            # Read for the batch statistics of the head alone.
            others = {key: _grid(canvas, level) for key, canvas in canvases.items() if key not in own}
            read = own | others if self.head_reads_all else own
            features = self.cut([maps[key] for key in read], [*read.values()], pixels[0].shape[-1])
            rows = self.head(Features(*map(torch.cat, zip(*features, strict=True))))
            parts = rows.split([len(each.pooled) for each in features])
            embeddings |= {key: by_canvas(part, own[key]) for key, part in zip(read, parts, strict=True) if key in own}
        return embeddings


def _grid(canvas: Canvas, level: int) -> Regions:
    """The 2^level x 2^level cells of canvases."""
    count, size = len(canvas.pixels), canvas.pixels.shape[-1]
    side = size / 2**level
    start = side * torch.arange(2**level, device=canvas.pixels.device)
    corners = torch.cartesian_prod(start, start)  # (K, 2)
    boxes = torch.cat([corners, corners + side], dim=1).expand(count, -1, -1)
    return Regions(
        source=boxes.new_zeros(boxes.shape[:2], dtype=torch.int64),
        boxes=boxes,
        weight=boxes.new_ones(boxes.shape[:2]),
        whole=level == 0,
        level=level,
    )


def _build_fpn(backbone: Backbone, levels: int, channels: int) -> FeaturePyramidNetwork:
    stages = backbone.stages()[-_MOST_STAGES:][-levels:]
    if len(stages) < levels or not halving(stages):
        raise UserError(
            f"an FPN of {levels} levels on {type(backbone.model).__name__}",
            f"that many stages of halving size, and no more than {_MOST_STAGES}",
            "use fewer levels, or fpn=False",
        )
    fpn = FeaturePyramidNetwork([stage.channels for stage in stages], channels, norm_layer=nn.BatchNorm2d)
    for layer in fpn.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)  # released code of MCL
    return fpn


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
    """Four 3x3 convolutions, average pooling, and MCL's projector g, whose last normalization learns nothing.

    Released code: this structure and the initialization below. The linear layers have no biases, which the
    normalization after them would undo.
    """

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
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, features: Features) -> Tensor:
        return self.projector(self.convs(features.map).mean(dim=(2, 3)))
