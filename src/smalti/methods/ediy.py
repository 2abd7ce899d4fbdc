"""E-DIY, exploring diversity and invariance in yourself (arXiv:2106.00537), on any composition.

The paper's regions of a view are the cells of its last feature map; here they are called cells, since a canvas has
regions too. R-DEM pushes each cell away from the cell of its own view that differs most, and R-IEM pulls it to the cell
of the other view that is most similar, both as a teacher ranks them.

The paper gives the local branch a projector and names no predictor; without one R-IEM alone collapses, as its Table 1
says, and with one it does not (results/quality_systems_cpu.json). So the default has none.

Legend: B images on this process, x and x' their two standard views, R cells of a view, N canvases, K regions on each,
C channels, D embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction, require_not_negative
from smalti.errors import UserError
from smalti.losses.cells import diversity_loss, invariance_loss, most_different, most_similar, take_cells
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.byol import byol_loss
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone, Features, as_backbone
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.frozen_teacher import FrozenTeacher
from smalti.models.heads import ProjectorConfig, mlp
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import by_canvas, read_regions
from smalti.schedules import cosine
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class EDIYConfig(MethodConfig):
    """E-DIY's settings; a term of weight 0 is not computed, and heads that no term needs are not built.

    Attributes:
        diversity: lambda_1, weight of R-DEM.
        invariance: lambda_2, weight of R-IEM.
        byol: lambda_3, weight of BYOL's loss, which alone takes further canvases.
        teacher: an encoder or checkpoint that ranks the cells; the paper's is a ResNet-50 trained by BYOL. "" for the
            target network of this run, a substitute of ours.
        warmup_epochs: without a teacher, epochs at the start in which lambda_1 and lambda_2 are 0, so that the target
            network first learns by BYOL's loss; of no effect where that has no weight.
        projector: from features to embeddings, of the global and of the local branch.
        predictor_hidden: width of a predictor's hidden layer.
        local_predictor: give the local branch a predictor too.
        ema_momentum: m at the start, weight that the target keeps of itself at every step; it rises to 1 along a
            cosine.
        region_size: cells along a region read from the map.

    Example:
        >>> from smalti.methods import EDIYConfig
        >>> EDIYConfig(byol=0.0).reads_cells
        True
    """

    diversity: float = 1.0
    invariance: float = 1.0
    byol: float = 1.0
    teacher: str = ""
    warmup_epochs: float = 10.0
    projector: ProjectorConfig = field(default_factory=lambda: ProjectorConfig(hidden=4096, dim=256, norm=True))
    predictor_hidden: int = 4096
    local_predictor: bool = False
    ema_momentum: float = 0.99
    region_size: int = 7
    scored: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        require_not_negative(self, "diversity", "invariance", "byol", "warmup_epochs")
        require_fraction(self, "ema_momentum")
        require_count(self, "predictor_hidden", "region_size")
        if not (self.reads_cells or self.byol):
            raise UserError("diversity 0, invariance 0, byol 0", "one of them above 0", "use e.g. 1 for each")
        if self.teacher and not self.reads_cells:
            raise UserError(
                f"teacher {self.teacher} with diversity 0 and invariance 0",
                "a teacher where cells are ranked",
                "leave the teacher out, or give one of the two a weight",
            )

    @property
    def reads_cells(self) -> bool:
        """Whether R-DEM or R-IEM has a weight."""
        return self.diversity > 0 or self.invariance > 0

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that E-DIY cannot learn from."""
        check_standard_views(views, 2, "two standard views")
        if len(views) > 2 and not self.byol:
            raise UserError(
                f"{len(views)} views and byol 0",
                "two views, since only BYOL's loss reads further ones",
                "give byol a weight, or take the further views out",
            )

    def build(self, backbone: nn.Module, data: DataInfo) -> "EDIY":
        return EDIY(backbone, self, data)


class Branch(nn.Module):
    """A projector, its slow copy, and a predictor: Fig. 2 has one branch for whole views and one for their cells.

    Args:
        channels: C, of the features.
        projector: which projector.
        predictor_hidden: width of the predictor's hidden layer; 0 for no predictor.
    """

    def __init__(self, channels: int, projector: ProjectorConfig, predictor_hidden: int) -> None:
        super().__init__()
        self.projector = projector.build(channels)
        self.target_projector = momentum_copy(self.projector)
        self.predictor = (
            mlp(projector.dim, predictor_hidden, projector.dim, norm=True) if predictor_hidden else nn.Identity()
        )

    def forward(self, features: Features) -> Tensor:
        """Online features of N -> (N, D), projected and predicted."""
        return self.predictor(self.projector(features))


class Cells(NamedTuple):
    """Cells of x and of x'.

    Attributes:
        online: f^l(x) and f^l(x'), each (B, R, D).
        target: g^l(x) and g^l(x'), likewise.
        taught: T(x) and T(x'), each (B, R, C).
    """

    online: Sequence[Tensor]
    target: Sequence[Tensor]
    taught: Sequence[Tensor]


class EDIY(Method):
    """BYOL on whole views, and two losses on the cells of the standard views.

    Args:
        backbone: of the online network; any network that `Backbone` can read.
        config: its settings.
        data: normalization of the pixels, for a teacher.

    Example:
        >>> from smalti.methods import EDIY, DataInfo, EDIYConfig, Progress
        >>> from smalti.models import TimmBackbone
        >>> from smalti.views import Collate, Crop
        >>> collate = Collate([Crop(size=32), Crop(size=32)])
        >>> views = collate(list(torch.rand(8, 3, 40, 40)))
        >>> backbone = TimmBackbone(name="resnet18", stem="stride8").build()
        >>> method = EDIY(backbone, EDIYConfig(), DataInfo(collate.normalize))
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: EDIYConfig, data: DataInfo) -> None:
        super().__init__()
        self.config = config
        self.online = as_backbone(backbone)
        if not config.byol:
            self.online.freeze_pooling()
        self.target = momentum_copy(self.online)
        dim, hidden = self.online.dim, config.predictor_hidden
        local_hidden = hidden if config.local_predictor else 0
        self.global_branch = Branch(dim, config.projector, hidden) if config.byol else None
        self.local_branch = Branch(dim, config.projector, local_hidden) if config.reads_cells else None
        synchronize_batch_norm(self)
        mean, std, stride = data.normalize.mean, data.normalize.std, self.online.stride
        self.teacher = FrozenTeacher(config.teacher, mean, std, stride) if config.teacher else None

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Eq. 3: lambda_1 L_R-DEM + lambda_2 L_R-IEM + lambda_3 L_BYOL; `views` are x, x' and any further canvases."""
        standard, size = views[:2], self.config.region_size
        online = [read_regions(self.online, canvas, size) for canvas in views]
        with torch.no_grad():
            target = [read_regions(self.target, canvas, size) for canvas in standard]
        terms: dict[str, Tensor] = {}
        logs: dict[str, Tensor] = {}
        if self.global_branch is not None:
            f = [by_canvas(self.global_branch(x), canvas.regions) for x, canvas in zip(online, views, strict=True)]
            g = [self.global_branch.target_projector(x) for x in target]
            terms["byol"], logs = byol_loss(views, f, g)  # Eq. 2
        if self.local_branch is not None:
            cells = self._read_cells(self.local_branch, standard, online, target)
            logs["cell_std"] = embedding_spread(cells.online[0])
            weight = torch.stack([canvas.regions.weight.sum(dim=1) for canvas in standard], dim=1)  # (B, 2)
            if self.config.diversity:
                different = self.different_cells(cells, progress)  # Eq. 4
                terms["diversity"] = _over_views(diversity_loss, cells.online, different, weight)  # Eq. 5
            if self.config.invariance:
                similar = self.similar_cells(cells, progress)  # Eq. 6
                terms["invariance"] = _over_views(invariance_loss, cells.online, similar, weight)  # Eq. 7
        logs |= {f"loss_{name}": term.detach() for name, term in terms.items()}
        weights = self.term_weights(progress)
        return Step(torch.stack([weights[name] * term for name, term in terms.items()]).sum(), logs)

    def different_cells(self, cells: Cells, progress: Progress) -> list[Tensor]:
        """f^l(x)_D(j) and f^l(x')_D(j), each (B, R, D): of the same view the cell least like cell j (Eq. 4)."""
        return [take_cells(f, most_different(t)) for f, t in zip(cells.online, cells.taught, strict=True)]

    def similar_cells(self, cells: Cells, progress: Progress) -> list[Tensor]:
        """g^l(x')_S(j) and g^l(x)_S(j), each (B, R, D): of the other view the cell most like cell j (Eq. 6)."""
        (t, t_other), (g, g_other) = cells.taught, cells.target
        return [take_cells(g_other, most_similar(t, t_other)), take_cells(g, most_similar(t_other, t))]

    def term_weights(self, progress: Progress) -> dict[str, float]:
        """lambda_1, lambda_2 and lambda_3 at this step."""
        config = self.config
        waits = self.teacher is None and config.byol > 0
        begun = not waits or progress.step >= config.warmup_epochs * progress.steps_per_epoch
        return {"diversity": begun * config.diversity, "invariance": begun * config.invariance, "byol": config.byol}

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        m = cosine(self.config.ema_momentum, 1.0, progress.fraction)
        branches = [branch for branch in (self.global_branch, self.local_branch) if branch is not None]
        heads = [MomentumPair(branch.projector, branch.target_projector, m) for branch in branches]
        return [MomentumPair(self.online, self.target, m), *heads]

    def encoder(self) -> Backbone:
        return self.online

    def _read_cells(
        self, branch: Branch, standard: Sequence[Canvas], online: Sequence[Features], target: Sequence[Features]
    ) -> Cells:
        maps = [features.map for features in target]
        if self.teacher is not None:
            with torch.no_grad():
                maps = [self.teacher(canvas.pixels) for canvas in standard]
        return Cells(
            online=[_embed_cells(branch, features.map) for features in online[:2]],
            target=[_embed_cells(branch.target_projector, features.map) for features in target],
            taught=[each.flatten(2).transpose(1, 2) for each in maps],
        )


def _embed_cells(head: nn.Module, maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, R, D), every cell as a map of its own, (B*R, C, 1, 1), so that any projector embeds it."""
    cells = maps.movedim(1, -1).flatten(0, 2)  # (B*R, C)
    return head(Features(map=cells[:, :, None, None], pooled=cells)).unflatten(0, (len(maps), -1))


def _over_views(
    loss: Callable[[Tensor, Tensor], Tensor], cells: Sequence[Tensor], partners: Sequence[Tensor], weight: Tensor
) -> Tensor:
    """The mean over images of the sum over both views, `weight` (B, 2) being that of each."""
    losses = [loss(*pair) for pair in zip(cells, partners, strict=True)]  # (B,) each
    return weighted_mean(torch.stack(losses, dim=1), weight)
