"""BYOL (arXiv:2006.07733) on any composition; with mosaics, MosRep on BYOL (ICLR 2023).

Legend: B images, N canvases, K regions on each, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction
from smalti.losses.cosine import cosine_loss
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone, Features
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.heads import ProjectorConfig, mlp
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import Network
from smalti.schedules import cosine
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(MethodConfig):
    """BYOL's settings.

    Attributes:
        projector: from features to embeddings.
        predictor_hidden: width of the predictor's hidden layer.
        ema_momentum: m at the start, what the target keeps of itself at every step; it rises to 1 along a cosine.
        region_size: cells along a region read from the map.
    """

    projector: ProjectorConfig = field(default_factory=lambda: ProjectorConfig(hidden=4096, dim=256, norm=True))
    predictor_hidden: int = 4096
    ema_momentum: float = 0.99
    region_size: int = 7
    scored: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        require_fraction(self, "ema_momentum")
        require_count(self, "predictor_hidden", "region_size")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that BYOL cannot learn from."""
        check_standard_views(views, 2, "two standard views")

    def build(self, backbone: nn.Module, data: DataInfo) -> "BYOL":
        return BYOL(backbone, self)


class BYOL(Method):
    """An online network and a predictor that foretells what a slow copy of the network says of the other view."""

    def __init__(self, backbone: nn.Module, config: BYOLConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BYOLConfig()
        self.online = Network(backbone, config.projector, config.region_size)
        self.target = momentum_copy(self.online)
        self.predictor = mlp(config.projector.dim, config.predictor_hidden, config.projector.dim, norm=True)
        synchronize_batch_norm(self)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """`views` are the query view, the key view, and any further canvases."""
        online = [self.online.encode(canvas) for canvas in views]
        return self.compare(views, online, self.encode_targets(views[:2]))

    def compare(self, views: Sequence[Canvas], online: Sequence[Features], target: Sequence[Features]) -> Step:
        """2 - 2 cos(h(z), sg z') of each standard view against the other and of every further region against the key.

        The first two terms are BYOL's symmetric loss, Eq. 2; a further region's is MosRep's.

        Args:
            views: all canvases.
            online: what the online backbone says of them.
            target: what the target's backbone says of the first two.
        """
        predictions = [self.predict(*seen) for seen in zip(online, views, strict=True)]  # (N, K, D) each
        of_query, of_key = (self._project_targets(*seen) for seen in zip(target, views[:2], strict=True))  # (B, D)
        targets = [of_key, of_query, *(of_key for _ in views[2:])]
        terms = [
            weighted_mean(cosine_loss(prediction, z[canvas.regions.source]), canvas.regions.weight)
            for prediction, z, canvas in zip(predictions, targets, views, strict=True)
        ]
        logs = {"loss_standard": (terms[0] + terms[1]).detach(), "z_std": embedding_spread(predictions[0])}
        logs |= {f"loss_composed_{number}": term.detach() for number, term in enumerate(terms[2:])}
        return Step(torch.stack(terms).sum(), logs)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.online, self.target, cosine(self.config.ema_momentum, 1.0, progress.fraction))]

    def encoder(self) -> Backbone:
        return self.online.backbone

    def predict(self, features: Features, canvas: Canvas) -> Tensor:
        """What the online backbone says of a canvas -> (N, K, D), h(z)."""
        z = self.online.project(features, canvas)
        return self.predictor(z.flatten(0, 1)).view_as(z)

    @torch.no_grad()
    def encode_targets(self, standard: Sequence[Canvas]) -> list[Features]:
        """What the target's backbone says of the standard views."""
        return [self.target.encode(canvas) for canvas in standard]

    @torch.no_grad()
    def _project_targets(self, features: Features, canvas: Canvas) -> Tensor:
        """What the target's backbone says of a standard view -> (B, D), z'."""
        return self.target.project(features, canvas)[:, 0]
