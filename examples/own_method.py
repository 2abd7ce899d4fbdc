"""A method and a loss of your own: smalti pretrain DATA --out RUN --recipe examples/own_method.py --method.hidden 64"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from smalti import Recipe, get_recipe
from smalti.methods import DataInfo, Method, MethodConfig, Progress, Step
from smalti.models import Backbone, MomentumPair, Network, ProjectorConfig, synchronize_batch_norm
from smalti.models.heads import mlp
from smalti.views import Canvas


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig(MethodConfig):
    """SimSiam's widths of the embedding and of the predictor (arXiv:2011.10566)."""

    dim: int = 128
    hidden: int = 32
    scored = "encoder"

    def build(self, backbone: nn.Module, data: DataInfo) -> Method:
        return SimSiam(backbone, self)


class SimSiam(Method):
    """Each view predicts the other, whose gradient is stopped; further views predict the first."""

    def __init__(self, backbone: nn.Module, config: SimSiamConfig) -> None:
        super().__init__()
        self.network = Network(backbone, ProjectorConfig(dim=config.dim, norm=True), region_size=7)
        self.predictor = mlp(config.dim, config.hidden, config.dim, norm=True)
        synchronize_batch_norm(self)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        embedded = [self.network(canvas) for canvas in views]  # (N, K, D)
        first, second, *_ = (z.detach()[:, 0] for z in embedded)  # (B, D), of the standard views
        targets = [second, first, *[first] * (len(views) - 2)]
        predicted = [self.predictor(z.flatten(0, 1)).view_as(z) for z in embedded]
        parts = zip(predicted, targets, views, strict=True)
        losses = [negative_cosine(p, z[canvas.regions.source]) for p, z, canvas in parts]
        return Step(sum(losses) / len(losses), {})

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return []

    def encoder(self) -> Backbone:
        return self.network.backbone


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Eq. 1."""
    return -F.cosine_similarity(p, z, dim=-1).mean()


def recipe() -> Recipe:
    return replace(get_recipe("byol_small"), name="own_method", method=SimSiamConfig())
