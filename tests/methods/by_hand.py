"""Networks read one region or one cell at a time, for methods whose heads have batch normalization."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from smalti.models.backbone import Backbone
from smalti.views.canvas import Canvas


def features_of(backbone: Backbone, canvas: Canvas) -> tuple[list[tuple[int, float]], Tensor]:
    """Of every region: its image and its area in pixels; and all their features, (N*K, C)."""
    features = backbone(canvas.pixels)
    scale = features.map.shape[-1] / canvas.pixels.shape[-1]
    regions, rows = [], []
    for n, k in torch.cartesian_prod(*map(torch.arange, canvas.regions.source.shape)).tolist():
        x0, y0, x1, y1 = box = canvas.regions.boxes[n, k].double()
        regions.append((int(canvas.regions.source[n, k]), float((x1 - x0) * (y1 - y0))))
        row = features.pooled[n]
        if not canvas.regions.whole:
            cells = roi_align(features.map[n : n + 1], [box[None]], 3, scale, sampling_ratio=-1, aligned=True)
            row = cells[0].mean(dim=(1, 2))
        rows.append(row)
    return regions, torch.stack(rows)


def mlp_by_hand(layers: nn.Sequential, rows: Tensor) -> list[Tensor]:
    """Linear, normalized by the mean and variance of all rows, ReLU, Linear."""
    first, norm, _, last = layers
    hidden = [first.weight @ row + first.bias for row in rows]
    mean = sum(hidden) / len(hidden)
    variance = sum((h - mean) ** 2 for h in hidden) / len(hidden)
    normalized = [(h - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias for h in hidden]
    return [last.weight @ h.clamp(min=0) + last.bias for h in normalized]


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())
