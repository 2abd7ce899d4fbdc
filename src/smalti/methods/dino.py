"""DINO (arXiv:2104.14294) on any composition; with mosaics, MosRep on DINO (ICLR 2023, appendix B).

Legend: B images on this process, N canvases, K regions on each, M regions of each image, P prototypes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction, require_not_negative, require_positive
from smalti.distributed import sum_over_processes, world_size
from smalti.losses.reduce import weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step, check_standard_views
from smalti.models.backbone import Backbone
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.momentum import MomentumPair, momentum_copy
from smalti.models.network import Network
from smalti.models.prototypes import PrototypeHead, PrototypeHeadConfig
from smalti.schedules import cosine
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class DINOConfig(MethodConfig):
    """DINO's settings; the defaults are those for ViT-S/16 and batches of 1024.

    Attributes:
        head: from features to similarities with prototypes.
        ema_momentum: m at the start, weight that the teacher keeps of itself at every step; it rises to 1 along
            a cosine.
        student_temperature: tau_s.
        teacher_temperature: tau_t from the last epoch of its warm-up on.
        warmup_teacher_temperature: tau_t in the first epoch, from where it changes by equal steps, one an epoch.
        teacher_warmup_epochs: epochs of the warm-up, the first and the last included; 0 for none.
        center_momentum: what the center keeps of itself at every step.
        freeze_epochs: epochs at the start in which the prototypes take neither updates nor weight decay.
        region_size: cells along a region read from the map.

    Example:
        >>> from smalti.methods import DINOConfig
        >>> DINOConfig(freeze_epochs=0).teacher_temperature
        0.07
    """

    head: PrototypeHeadConfig = field(default_factory=PrototypeHeadConfig)
    ema_momentum: float = 0.996
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    warmup_teacher_temperature: float = 0.04
    teacher_warmup_epochs: int = 30
    center_momentum: float = 0.9
    freeze_epochs: int = 1
    region_size: int = 7
    scored: ClassVar[str] = "teacher"

    def __post_init__(self) -> None:
        require_fraction(self, "ema_momentum", "center_momentum")
        require_positive(self, "student_temperature", "teacher_temperature", "warmup_teacher_temperature")
        require_not_negative(self, "teacher_warmup_epochs", "freeze_epochs")
        require_count(self, "region_size")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that DINO cannot learn from."""
        check_standard_views(views, 2, "two standard views, which the teacher sees")

    def build(self, backbone: nn.Module, data: DataInfo) -> "DINO":
        return DINO(backbone, self)


class DINO(Method):
    """A student of all views that learns to predict the outputs of its slow copy, the teacher, for the standard ones.

    Args:
        backbone: of the student; any network that `Backbone` can read.
        config: its settings.

    Example:
        >>> from smalti.methods import DINO, Progress
        >>> from smalti.models import TimmBackbone
        >>> from smalti.views import Collate, Crop
        >>> views = Collate([Crop(size=32), Crop(size=32), Crop(size=16, count=4)])(list(torch.rand(8, 3, 40, 40)))
        >>> method = DINO(TimmBackbone(name="resnet18", stem="stride8").build())
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    center: Tensor

    def __init__(self, backbone: nn.Module, config: DINOConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DINOConfig()
        self.student = Network(backbone, config.head, config.region_size)
        self.teacher = cast(Network, momentum_copy(self.student))
        for network in (self.student, self.teacher):
            synchronize_batch_norm(network)
        self.register_buffer("center", torch.zeros(config.head.outputs))

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Eq. 3, averaged over its pairs: H(P_t(x), P_s(x')) for both standard views x and all other views x'."""
        first, second, *composed = views
        outputs = self.teacher_outputs(first, second)  # (2, B, P), g_t
        targets = F.softmax((outputs - self.center) / self.teacher_temperature(progress), dim=-1)  # P_t
        loss = (self.cross_entropy(targets[1], first) + self.cross_entropy(targets[0], second)) / 2
        entropy = torch.special.entr(targets).sum(dim=-1).mean()
        logs = {
            "loss_standard": loss.detach(),
            "teacher_entropy": entropy,  # log P after a collapse to one answer for all, 0 to one prototype
            "kl": loss.detach() - entropy,  # 0 after either
            "center_norm": self.center.norm(),
        }
        both, compared = targets.mean(dim=0), 1.0  # H is linear in P_t, so the mean compares with both at once
        for number, canvas in enumerate(composed):
            term = self.cross_entropy(both, canvas)
            logs[f"loss_composed_{number}"] = term.detach()
            count = canvas.regions.source.numel() / len(both)  # M
            loss, compared = loss + count * term, compared + count
        self._move_center(outputs)
        return Step(loss / compared, logs)

    def after_backward(self, progress: Progress) -> None:
        """Frozen prototypes have no gradients at all, so the optimizer neither moves nor decays them nor counts a step.

        The released code clips first. Where each parameter is clipped by itself, as there, that is the same; where all
        are clipped together, the frozen ones have no part in the norm.
        """
        if progress.epoch < self.config.freeze_epochs:
            for parameter in cast(PrototypeHead, self.student.projector).last_layer:
                parameter.grad = None

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return [MomentumPair(self.student, self.teacher, cosine(self.config.ema_momentum, 1.0, progress.fraction))]

    def encoder(self) -> Backbone:
        return self.teacher.backbone

    def cross_entropy(self, targets: Tensor, canvas: Canvas) -> Tensor:
        """Mean over the regions of H(P_t, P_s) = - sum P_t log P_s (Eq. 2), for the images' targets P_t (B, P)."""
        logits = self.student(canvas).flatten(0, 1) / self.config.student_temperature  # (N*K, P)
        target = targets[canvas.regions.source.flatten()]
        return weighted_mean(F.cross_entropy(logits, target, reduction="none"), canvas.regions.weight)

    @torch.no_grad()
    def teacher_outputs(self, *standard: Canvas) -> Tensor:
        """(2, B, P), g_t of the standard views."""
        return torch.stack([self.teacher(canvas)[:, 0] for canvas in standard])

    def teacher_temperature(self, progress: Progress) -> float:
        """tau_t, constant within an epoch as in the released code."""
        start, end = self.config.warmup_teacher_temperature, self.config.teacher_temperature
        epochs = self.config.teacher_warmup_epochs
        return end if progress.epoch >= epochs else start + (end - start) * progress.epoch / max(epochs - 1, 1)

    @torch.no_grad()
    def _move_center(self, outputs: Tensor) -> None:
        """Eq. 4: c <- m c + (1 - m) mean of g_t over the batch of all processes."""
        mean = sum_over_processes(outputs.mean(dim=(0, 1))) / world_size()
        self.center.lerp_(mean, 1 - self.config.center_momentum)
