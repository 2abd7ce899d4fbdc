"""BYOL (arXiv:2006.07733) on any composition; with mosaics, MosRep on BYOL (ICLR 2023).

Legend: B images, N canvases, K regions on each, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import UserError
from smalti.losses.cosine import cosine_loss
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.batch_norm import synchronise_batch_norm
from smalti.models.heads import ProjectorConfig, mlp
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import Network
from smalti.schedules import cosine
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class BYOLConfig:
    """BYOL's settings.

    Attributes:
        projector: from features to embeddings.
        predictor_hidden: width of the predictor's hidden layer.
        momentum: m at the start, what the target keeps of itself at every step; it rises to 1 along a cosine.
        region_size: cells along a region read from the map.
    """

    projector: ProjectorConfig = field(default_factory=lambda: ProjectorConfig(hidden=4096, dim=256, norm=True))
    predictor_hidden: int = 4096
    momentum: float = 0.99
    region_size: int = 7
    scored: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise UserError(f"momentum {self.momentum}", "a number from 0 to 1", "use e.g. 0.99")
        if self.predictor_hidden < 1 or self.region_size < 1:
            raise UserError(
                f"predictor_hidden {self.predictor_hidden}, region_size {self.region_size}",
                "1 or more",
                "give larger ones",
            )

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that BYOL cannot learn from."""
        check_standard_views(views, "two standard views")

    def build(self, backbone: BackboneConfig, data: DataInfo) -> "BYOL":
        return BYOL(self, backbone)


class BYOL(Method):
    """An online network and a predictor that foretells what a slow copy of the network says of the other view."""

    def __init__(self, config: BYOLConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.online = Network(backbone, config.projector, config.region_size)
        self.target = momentum_copy(self.online)
        self.predictor = mlp(config.projector.dim, config.predictor_hidden, config.projector.dim, norm=True)
        for module in (self.online, self.target, self.predictor):
            synchronise_batch_norm(module)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """-cos(h(z_q), sg z'_k) - cos(h(z_k), sg z'_q), and for every region -cos(h(z_ij), sg z'_k); each + 1."""
        query, key, *composed = views
        target_of_query, target_of_key = self.target_embeddings(query), self.target_embeddings(key)  # (B, D)
        prediction = self.predict(query)
        loss = weighted_mean(cosine_loss(prediction, _of_regions(target_of_key, query)), query.regions.weight)
        loss = loss + weighted_mean(
            cosine_loss(self.predict(key), _of_regions(target_of_query, key)), key.regions.weight
        )
        logs = {"loss_standard": loss.detach(), "z_std": embedding_spread(F.normalize(prediction, dim=-1))}
        for number, canvas in enumerate(composed):
            term = weighted_mean(
                cosine_loss(self.predict(canvas), _of_regions(target_of_key, canvas)), canvas.regions.weight
            )
            logs[f"loss_composed_{number}"] = term.detach()
            loss = loss + term
        return Step(loss, logs)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.online, self.target, cosine(self.config.momentum, 1.0, progress.fraction))]

    def encoder(self) -> Backbone:
        return self.online.backbone

    def predict(self, canvas: Canvas) -> Tensor:
        """Canvas -> (N, K, D), h(z)."""
        z = self.online(canvas)
        return self.predictor(z.flatten(0, 1)).view_as(z)

    @torch.no_grad()
    def target_embeddings(self, canvas: Canvas) -> Tensor:
        """(B, D) what the target says of a standard view."""
        return self.target(canvas)[:, 0]


def _of_regions(targets: Tensor, canvas: Canvas) -> Tensor:
    """(N, K, D) the targets (B, D) of the images that the regions show."""
    return targets[canvas.regions.source]
