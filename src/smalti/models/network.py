"""Backbone and projector: from canvases to one embedding a region.

Legend: N canvases, K regions on each, D embedding.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.regions import pool_regions
from smalti.views.canvas import Canvas


class Network(nn.Module):
    """Encoder F and projector g of the papers.

    Args:
        backbone: which encoder.
        projector: which projector.
        region_size: r, cells along a region that RoIAlign reads from the map (7 in the released MosRep code).
    """

    def __init__(self, backbone: BackboneConfig, projector: ProjectorConfig, region_size: int) -> None:
        super().__init__()
        self.backbone = Backbone(backbone)
        self.projector = projector.build(self.backbone.dim)
        self.region_size = region_size

    def forward(self, canvas: Canvas) -> Tensor:
        """Canvas -> (N, K, D) embeddings of length 1, in the order of the canvas's regions."""
        features = self.backbone(canvas.pixels)
        count, regions = canvas.regions.source.shape
        if canvas.regions.whole:
            z = self.projector(features)[:, None].expand(-1, regions, -1)  # (N, K, D)
        else:
            pooled = pool_regions(features.map, canvas.regions, canvas.pixels.shape[-1], self.region_size)
            z = self.projector(pooled).view(count, regions, -1)
        z = z if z.dtype.itemsize > 2 else z.float()
        return F.normalize(z, dim=-1)
