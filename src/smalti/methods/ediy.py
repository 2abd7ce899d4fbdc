"""E-DIY, exploring diversity and invariance in yourself (arXiv:2106.00537), on any composition.

The paper's regions of a view are the cells of its last feature map; here they are called cells, since a canvas has
regions too. A cell is pushed away from the cell of its own view that differs most (R-DEM) and pulled to the cell of the
other view that is most like it (R-IEM); what is alike is for a teacher to say.

The paper gives the local branch a projector and names no predictor; without one R-IEM alone collapses, as its Table 1
says, and with one it does not (results/quality_systems_cpu.json). So a predictor stands there on request only.

Legend: B images on this process, W processes, N standard canvases (one an image), R cells of each, C channels,
D embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.losses.cells import diversity_loss, invariance_loss, most_different, most_similar, take_cells
from smalti.losses.reduce import embedding_spread, weighted_mean
from smalti.methods.byol import BYOL, BYOLConfig
from smalti.methods.method import DataInfo, Progress, Step
from smalti.methods.random_cells import other_images, random_pairs
from smalti.models.backbone import Features
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.frozen_teacher import FrozenTeacher
from smalti.models.heads import mlp
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class EDIYConfig(BYOLConfig):
    """E-DIY's settings, BYOL's among them; a term of weight 0 is not computed.

    Attributes:
        diversity: lambda_1, weight of R-DEM.
        invariance: lambda_2, weight of R-IEM.
        byol: lambda_3, weight of BYOL's loss, in which further canvases take part.
        pairing: who says which cells differ most and are most alike: the "teacher", or nobody ("random").
        negatives: what R-DEM pushes a cell away from: a cell of its "own" view, or as in DenseCL (arXiv:2011.09157)
            the mean cell of a random "other" image, as the target sees it.
        teacher: an encoder or checkpoint that ranks the cells; the paper's is a ResNet-50 trained by BYOL. "" for the
            target network of this run, a substitute of ours.
        warmup_epochs: without a teacher, epochs in which BYOL's loss, if it has a weight, learns alone.
        local_predictor: the local projector is followed by a predictor, as BYOL's is; the published one is not.
    """

    diversity: float = 1.0
    invariance: float = 1.0
    byol: float = 1.0
    pairing: Literal["teacher", "random"] = "teacher"
    negatives: Literal["own", "other"] = "own"
    teacher: str = ""
    warmup_epochs: float = 10.0
    local_predictor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.diversity, self.invariance, self.byol
        if min(weights) < 0 or max(weights) == 0:
            raise UserError(
                f"diversity {weights[0]}, invariance {weights[1]}, byol {weights[2]}",
                "0 or more, and one above 0",
                "use e.g. 1 for each",
            )
        if self.warmup_epochs < 0:
            raise UserError(f"warmup_epochs {self.warmup_epochs}", "0 or more", "use e.g. 10")
        if self.teacher and self.pairing == "random":
            raise UserError(f"a teacher, {self.teacher}, for random pairs", "one of the two", "leave one out")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that E-DIY cannot learn from."""
        super().check(views)
        if len(views) > 2 and not self.byol:
            raise UserError(
                f"{len(views)} views and byol 0",
                "two views, since only BYOL's loss reads further ones",
                "give byol a weight, or take the further views out",
            )

    def build(self, backbone: nn.Module, data: DataInfo) -> "EDIY":
        return EDIY(backbone, self, data)


class EDIY(BYOL):
    """BYOL, and a second pair of heads that embeds every cell of the standard views."""

    config: EDIYConfig

    def __init__(self, backbone: nn.Module, config: EDIYConfig, data: DataInfo) -> None:
        super().__init__(backbone, config)
        dim = config.projector.dim
        self.teacher: FrozenTeacher | None = None
        if config.diversity or config.invariance:
            self.local_projector = config.projector.build(self.online.backbone.dim)
            self.local_target = momentum_copy(self.local_projector)
            self.local_predictor = (
                mlp(dim, config.predictor_hidden, dim, norm=True) if config.local_predictor else nn.Identity()
            )
            for module in (self.local_projector, self.local_target, self.local_predictor):
                synchronize_batch_norm(module)
            if config.teacher:
                normalize = data.normalize
                stride = self.online.backbone.stride
                self.teacher = FrozenTeacher(config.teacher, normalize.mean, normalize.std, stride)
        if not config.byol:
            # No loss would give them gradients, and several processes would wait for those.
            del self.online.projector, self.target.projector, self.predictor

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """lambda_1 L_R-DEM + lambda_2 L_R-IEM + lambda_3 L_BYOL (Eq. 3); `views` as BYOL's."""
        config = self.config
        online, target = [self.online.encode(canvas) for canvas in views], self.encode_targets(views[:2])
        # Some backbones normalize their pooled feature apart: those weights too need a gradient at every step.
        loss = 0 * online[0].pooled.mean()
        logs: dict[str, Tensor] = {}
        if config.byol:
            byol, logs = self.compare(views, online, target)
            loss = config.byol * byol  # Eq. 2
        if config.diversity or config.invariance:
            local, local_logs = self._compare_cells(views[:2], online[:2], target, progress)
            # Multiplied by 0 during the warm-up, not left out, for the sake of gradients again.
            loss, logs = loss + self._begun(progress) * local, logs | local_logs
        return Step(loss, logs)

    def _compare_cells(
        self, views: Sequence[Canvas], online: Sequence[Features], target: Sequence[Features], progress: Progress
    ) -> Step:
        """lambda_1 L_R-DEM + lambda_2 L_R-IEM, from what both backbones say of the standard views."""
        f = [self._predict_cells(features) for features in online]  # f^l(x), (N, R, D) each
        g = [self._project_cells(features) for features in target]  # g^l(x), likewise
        different, similar = self._pair(views, target, progress)  # D(j) and S(j), (N, R) each
        loss, logs = f[0].new_zeros(()), {"cell_std": embedding_spread(f[0])}
        if self.config.diversity:
            if self.config.negatives == "own":
                away = [take_cells(*each) for each in zip(f, different, strict=True)]
            else:
                away = [other_images(each, view, progress) for view, each in enumerate(g)]
            term = _sum_over_views(diversity_loss, f, away, views)  # Eq. 5
            loss = loss + self.config.diversity * term
            logs["loss_diversity"] = term.detach()
        if self.config.invariance:
            alike = [take_cells(*each) for each in zip(reversed(g), similar, strict=True)]
            term = _sum_over_views(invariance_loss, f, alike, views)  # Eq. 7
            loss = loss + self.config.invariance * term
            logs["loss_invariance"] = term.detach()
        return Step(loss, logs)

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        pairs = super().momentum_pairs(progress)
        if self.config.diversity or self.config.invariance:
            pairs.append(MomentumPair(self.local_projector, self.local_target, pairs[0].momentum))
        return pairs

    def _predict_cells(self, features: Features) -> Tensor:
        """Maps of N views -> (N, R, D), f^l: the local projector, then the local predictor if there is one."""
        return self.local_predictor(self.local_projector(_as_images(features))).unflatten(0, (len(features.map), -1))

    @torch.no_grad()
    def _project_cells(self, features: Features) -> Tensor:
        """Maps of N views -> (N, R, D), g^l."""
        return self.local_target(_as_images(features)).unflatten(0, (len(features.map), -1))

    @torch.no_grad()
    def _pair(
        self, standard: Sequence[Canvas], target: Sequence[Features], progress: Progress
    ) -> tuple[list[Tensor], list[Tensor]]:
        """D(j) and S(j) of each standard view (Eq. 4 and 6), (N, R) numbers of its own and of the other's cells."""
        if self.config.pairing == "random":
            return random_pairs([features.map for features in target], progress)
        maps = [features.map for features in target]
        if self.teacher is not None:
            maps = [self.teacher(canvas.pixels) for canvas in standard]
        first, second = (each.flatten(2).transpose(1, 2) for each in maps)  # T(x), (N, R, C)
        different = [most_different(first), most_different(second)]
        return different, [most_similar(first, second), most_similar(second, first)]

    def _begun(self, progress: Progress) -> float:
        """1, but 0 while the target, in the teacher's place, has still to learn what cells show."""
        own_teacher = self.teacher is None and self.config.pairing == "teacher"
        waits = own_teacher and self.config.byol > 0
        return float(not waits or progress.step >= self.config.warmup_epochs * progress.steps_per_epoch)


def _as_images(features: Features) -> Features:
    """Every cell of N maps as a map of its own, (N*R, C, 1, 1), so that any projector embeds it alone."""
    cells = features.map.movedim(1, -1).flatten(0, 2)  # (N*R, C)
    return Features(map=cells[:, :, None, None], pooled=cells)


def _sum_over_views(
    loss: Callable[[Tensor, Tensor], Tensor], cells: list[Tensor], partners: list[Tensor], views: Sequence[Canvas]
) -> Tensor:
    """The loss of each view's cells, an image weighing as much as the regions of its canvas together."""
    terms = [
        weighted_mean(loss(mine, theirs), canvas.regions.weight.sum(dim=1))
        for mine, theirs, canvas in zip(cells, partners, views, strict=True)
    ]
    return torch.stack(terms).sum()
