"""MCL: multi-level contrastive learning (arXiv:2304.02010) on montages, and on any other composition.

Legend: B images on this process, W processes, N canvases, K regions on each, D embedding, S levels. View n is of side
n % 2: the two sides of a level are two views of the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction, require_positive
from smalti.distributed import gather, rank
from smalti.errors import UserError
from smalti.losses.info_nce import info_nce_among
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.heads import mlp
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.pyramid import DenseHeadConfig, PyramidNetwork
from smalti.schedules import cosine
from smalti.views.canvas import Canvas
from smalti.views.montage import check_levels
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class MCLConfig(MethodConfig):
    """MCL's settings; the defaults are the released ones, for four levels.

    Attributes:
        level_weights: weight of the loss of each level, above 0; the views have as many levels (released code).
        matching: the targets of a level's regions (Fig. 3, Table 10b): (a) those of the "largest" views, level 0; (b)
            of the "same" level; (c) of the "adjacent" levels, the one above and the one below; (d) of "all".
        temperature: tau of Eq. 2, above 0; the text leaves it open (released code: 1).
        ema_momentum: m at the start, in [0, 1]: the share of itself that the target keeps at every step; it rises to 1
            along a cosine (section 4.1).
        fpn: read levels from a feature pyramid network; else from the last map, resized to each (section 3.2).
        channels: of the FPN and of the dense head.
        hidden: width of the hidden layers of the projector and of the predictors.
        dim: D, width of the embedding.
        region_size: cells along a region; as many as a whole view has on the coarsest map (released code: 7).
        head_reads_all: at every level the dense head reads the cells of all canvases of a side, not only of the
            level's own, so that its batch statistics are those of all (released code). For four levels that is 114
            cells an image in place of 5, and only those 5 have a loss; False spares the others.

    Example:
        >>> from smalti.methods import MCLConfig
        >>> MCLConfig(level_weights=(1 / 2, 1 / 2)).levels
        2
    """

    level_weights: tuple[float, ...] = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
    matching: Literal["largest", "same", "adjacent", "all"] = "largest"
    temperature: float = 1.0
    ema_momentum: float = 0.99
    fpn: bool = True
    channels: int = 256
    hidden: int = 2048
    dim: int = 256
    region_size: int = 7
    head_reads_all: bool = True
    scored: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        if not self.level_weights or min(self.level_weights) <= 0:
            raise UserError(f"level_weights {self.level_weights}", "one number above 0 a level", "use e.g. 0.5 0.5")
        if self.matching == "adjacent" and self.levels < 2:
            raise UserError("adjacent levels to match among one", "two or more", "use --method.matching same")
        require_fraction(self, "ema_momentum")
        require_positive(self, "temperature")
        require_count(self, "channels", "hidden", "dim", "region_size")

    @property
    def levels(self) -> int:
        """S, of the views."""
        return len(self.level_weights)

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that MCL cannot learn from."""
        check_standard_views(views, 2, "two standard views")
        check_levels(views, self.levels)
        sides = [sorted({view.level for view in views[side::2]}) for side in (0, 1)]
        if self.matching != "largest" and sides[0] != sides[1]:
            raise UserError(
                f"views of levels {sides[0]} on one side and {sides[1]} on the other",
                f"every level on both for matching {self.matching!r}",
                "give two views of every level, one after the other",
            )

    def matched(self, level: int) -> list[int]:
        """The levels whose targets a region of `level` is compared with."""
        if self.matching == "largest":
            return [0]
        if self.matching == "same":
            return [level]
        return [other for other in range(self.levels) if self.matching == "all" or abs(other - level) == 1]

    def build(self, backbone: nn.Module, data: DataInfo) -> "MCL":
        return MCL(backbone, self)


class MCL(Method):
    """Every region is matched with the target embedding of its own image, among those of the batch (section 3.2).

    Args:
        backbone: of the online network; any with a pyramid that `Backbone` can read.
        config: its settings.

    Example:
        >>> from smalti.methods import MCL, MCLConfig, Progress
        >>> from smalti.models import TimmBackbone
        >>> from smalti.views import Collate, Crop, Montage
        >>> collate = Collate([Crop(size=32), Crop(size=32), Montage(size=32, level=1), Montage(size=32, level=1)])
        >>> views = collate(list(torch.rand(8, 3, 40, 40)))
        >>> method = MCL(TimmBackbone(name="resnet18", stem="stride8").build(), MCLConfig(level_weights=(1 / 2, 1 / 2)))
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: MCLConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MCLConfig()
        self.online = PyramidNetwork(
            backbone,
            DenseHeadConfig(channels=config.channels, hidden=config.hidden, dim=config.dim),
            config.levels,
            config.channels if config.fpn else 0,
            config.region_size,
            config.head_reads_all,
        )
        self.target = momentum_copy(self.online)
        self.predictors = nn.ModuleList(_predictor(config.dim, config.hidden) for _ in range(config.levels))
        for module in (self.online, self.target, self.predictors):
            synchronize_batch_norm(module)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Eq. 2, symmetric (L = L_u + L_v): every view against the targets of the other side.

        A level's term is multiplied by its weight and by 2 tau (released code). Where a level is matched with several,
        the mean is taken over them; negatives are of the positive's level (Fig. 3).
        """
        tau = self.config.temperature
        images = len(views[0].pixels)
        sides = views[::2], views[1::2]
        targets = [self.target_embeddings(side, images) for side in sides]
        loss = torch.zeros((), device=views[0].pixels.device)
        logs: dict[str, Tensor] = {}
        for side, target in zip(sides, reversed(targets), strict=True):
            for canvas, z in zip(side, self.online(side), strict=True):
                regions = canvas.regions
                image = rank() * images + regions.source.flatten()  # (N*K,) in the batch of all processes
                u = F.normalize(self.predict(z, regions.level), dim=-1)  # (N, K, D)
                terms = []
                for level in self.config.matched(regions.level):
                    v = target[level]  # (W*B, D)
                    terms.append(info_nce_among(u.flatten(0, 1), v, image, v[:0], tau))
                term = weighted_mean(torch.stack(terms).mean(dim=0), regions.weight)
                loss = loss + 2 * tau * self.config.level_weights[regions.level] * term
                name = f"loss_level_{regions.level}"
                logs[name] = logs.get(name, 0) + term.detach()
                logs.setdefault("z_std", embedding_spread(u))
        return Step(loss, logs)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.online, self.target, cosine(self.config.ema_momentum, 1.0, progress.fraction))]

    def encoder(self) -> Backbone:
        return self.online.backbone

    def predict(self, z: Tensor, level: int) -> Tensor:
        """(N, K, D) embeddings of a level's regions -> h(z), (N, K, D)."""
        return self.predictors[level](z.flatten(0, 1)).view_as(z).to(z.dtype)

    @torch.no_grad()
    def target_embeddings(self, side: Sequence[Canvas], images: int) -> dict[int, Tensor]:
        """By level, (W*B, D) the target's embeddings of the images of all processes, of length 1.

        Args:
            side: the views of one side.
            images: B.

        The first view of a level is the one that counts. An image that it shows more than once has the mean of its
        embeddings, so that it is one positive and not a negative of its own.
        """
        levels = [0] if self.config.matching == "largest" else range(self.config.levels)
        read = [canvas.regions for canvas in side if canvas.regions.level in levels]
        targets: dict[int, Tensor] = {}
        for regions, z in zip(read, self.target(side, levels), strict=True):
            if regions.level not in targets:
                rows = F.normalize(z, dim=-1).flatten(0, 1)  # (N*K, D)
                mean = rows.new_zeros(images, rows.shape[1]).index_add(0, regions.source.flatten(), rows)
                targets[regions.level] = gather(F.normalize(mean, dim=-1))
        return targets


def _predictor(dim: int, hidden: int) -> nn.Sequential:
    """h: Linear, batch normalization, ReLU, Linear; released code: weights from normal(0, 0.01), biases 0."""
    layers = mlp(dim, hidden, dim, norm=True)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return layers
