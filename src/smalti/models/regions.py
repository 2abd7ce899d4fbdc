"""Features of regions, by torchvision's RoIAlign on feature maps or on the patch tokens of a ViT laid out as one.

Legend: N canvases, K regions on each, C channels, h x w map, r cells along a region.
"""

import torch
from torch import Tensor
from torchvision.ops import roi_align

from smalti.models.backbone import Features
from smalti.views.canvas import Regions


def pool_regions(maps: Tensor, regions: Regions, canvas_size: int, size: int) -> Features:
    """The regions' parts of the maps, canvas by canvas.

    Args:
        maps: (N, C, h, w).
        regions: boxes in pixels of the canvas.
        canvas_size: side of a canvas, pixels.
        size: r; RoIAlign samples each of the r x r cells adaptively, aligned (half-pixel centers).

    Returns:
        Features of N * K regions: map (N*K, C, r, r) and its mean, pooled (N*K, C).

    Example:
        >>> from smalti.models import pool_regions
        >>> from smalti.views import Regions
        >>> boxes = torch.tensor([[[0.0, 0.0, 16.0, 32.0], [16.0, 0.0, 32.0, 32.0]]])
        >>> regions = Regions(source=torch.tensor([[0, 1]]), boxes=boxes, weight=torch.ones(1, 2), whole=False)
        >>> pool_regions(torch.arange(8.0).expand(1, 1, 8, 8), regions, canvas_size=32, size=2).pooled
        tensor([[1.5000],
                [5.5000]])
    """
    # RoIAlign has no bfloat16 kernel on the CPU, and box coordinates need more than 8 bits anywhere.
    with torch.autocast(maps.device.type, enabled=False):
        boxes = list(regions.boxes.to(maps.device).unbind())  # N x (K, 4)
        exact = maps if maps.dtype == torch.float64 else maps.float()
        pooled = roi_align(
            exact,
            [box.to(exact.dtype) for box in boxes],
            output_size=size,
            spatial_scale=maps.shape[-1] / canvas_size,
            sampling_ratio=-1,
            aligned=True,
        )
    return Features(map=pooled.to(maps.dtype), pooled=pooled.mean(dim=(2, 3)).to(maps.dtype))
