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
from smalti.models.backbone import Backbone
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
        ema_momentum: m at the start, weight that the target keeps of itself at every step; it rises to 1 along a
            cosine.
        region_size: cells along a region read from the map.

    Example:
        >>> from smalti.methods import BYOLConfig
        >>> BYOLConfig(ema_momentum=0.99).predictor_hidden
        4096
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
    """An online network and a predictor of the embedding that a slow copy of the network gives the other view.

    Args:
        backbone: of the online network; any network that `Backbone` can read.
        config: its settings.

    Example:
        >>> from smalti.methods import BYOL, Progress
        >>> from smalti.models import TimmBackbone
        >>> from smalti.views import Collate, Crop
        >>> views = Collate([Crop(size=32), Crop(size=32)])(list(torch.rand(8, 3, 40, 40)))
        >>> method = BYOL(TimmBackbone(name="resnet18", stem="stride8").build())
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: BYOLConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BYOLConfig()
        self.online = Network(backbone, config.projector, config.region_size)
        self.target = momentum_copy(self.online)
        self.predictor = mlp(config.projector.dim, config.predictor_hidden, config.projector.dim, norm=True)
        synchronize_batch_norm(self)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """`views` are the query view, the key view, and any further canvases."""
        predictions = [self.predict(canvas) for canvas in views]
        targets = [self.embed_target(canvas) for canvas in views[:2]]
        return byol_loss(views, predictions, targets)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.online, self.target, cosine(self.config.ema_momentum, 1.0, progress.fraction))]

    def encoder(self) -> Backbone:
        return self.online.backbone

    def predict(self, canvas: Canvas) -> Tensor:
        """Canvas -> (N, K, D), h(z)."""
        z = self.online(canvas)
        return self.predictor(z.flatten(0, 1)).view_as(z)

    @torch.no_grad()
    def embed_target(self, canvas: Canvas) -> Tensor:
        """Standard view -> (B, D), z'."""
        return self.target(canvas)[:, 0]


def byol_loss(views: Sequence[Canvas], predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Step:
    """2 - 2 cos(h(z), sg z') of each standard view against the other and of every further region against the key.

    The first two terms are BYOL's symmetric loss, Eq. 2; a further region's is MosRep's.

    Args:
        views: the query view, the key view, and any further canvases.
        predictions: h(z) of each, (N, K, D).
        targets: z' of the query view and of the key view, (B, D).
    """
    of_query, of_key = targets
    compared = [of_key, of_query, *(of_key for _ in views[2:])]
    terms = [
        weighted_mean(cosine_loss(prediction, z[canvas.regions.source]), canvas.regions.weight)
        for prediction, z, canvas in zip(predictions, compared, views, strict=True)
    ]
    logs = {"loss_standard": (terms[0] + terms[1]).detach(), "z_std": embedding_spread(predictions[0])}
    logs |= {f"loss_composed_{number}": term.detach() for number, term in enumerate(terms[2:])}
    return Step(torch.stack(terms).sum(), logs)
