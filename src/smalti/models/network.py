"""Backbone and projector: from canvases to one embedding a region.

Legend: N canvases, K regions on each, D embedding.
"""

from torch import Tensor, nn

from smalti.models.backbone import Features, as_backbone
from smalti.models.heads import HeadConfig
from smalti.models.regions import pool_regions
from smalti.precision import widen
from smalti.views.canvas import Canvas, Regions


class Network(nn.Module):
    """Encoder F and projector g of the papers.

    Args:
        backbone: the encoder, any network that `Backbone` can read.
        projector: which projector.
        region_size: r, cells along a region that RoIAlign reads from the map (7 in the released MosRep code).

    Example:
        >>> from smalti.models import Network, ProjectorConfig, TimmBackbone
        >>> from smalti.views import Collate, Mosaic
        >>> backbone = TimmBackbone(name="resnet18", stem="stride8").build()
        >>> network = Network(backbone, ProjectorConfig(dim=16), region_size=2)
        >>> (mosaics,) = Collate([Mosaic(tile_size=16, max_shift=4)])(list(torch.rand(8, 3, 40, 40)))
        >>> tuple(network(mosaics).shape)  # 8 mosaics of 4 regions
        (8, 4, 16)
    """

    def __init__(self, backbone: nn.Module, projector: HeadConfig, region_size: int) -> None:
        super().__init__()
        self.backbone = as_backbone(backbone)
        self.projector = projector.build(self.backbone.dim)
        self.region_size = region_size

    def forward(self, canvas: Canvas) -> Tensor:
        """Canvas -> (N, K, D) embeddings, of any length, at least 32 bits wide, in the order of the regions."""
        features = read_regions(self.backbone, canvas, self.region_size)
        return by_canvas(self.projector(features), canvas.regions)


def read_regions(backbone: nn.Module, canvas: Canvas, region_size: int) -> Features:
    """Features of the N * K regions, or of the N canvases where every region is its whole canvas."""
    features = backbone(canvas.pixels)
    if canvas.regions.whole:
        return features
    return pool_regions(features.map, canvas.regions, canvas.pixels.shape[-1], region_size)


def by_canvas(z: Tensor, regions: Regions) -> Tensor:
    """(N*K, D), or (N, D) where every region is its whole canvas, -> (N, K, D), at least 32 bits wide."""
    count, of_each = regions.source.shape
    return widen(z).view(count, -1, z.shape[-1]).expand(-1, of_each, -1)
