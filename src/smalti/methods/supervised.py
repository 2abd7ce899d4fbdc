"""Supervised training on any composition; with montages, MCL's supervised variant (section 4.2).

Legend: N canvases, K regions on each, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.checks import require_count, require_fraction
from smalti.errors import UserError
from smalti.losses.reduce import weighted_mean
from smalti.methods.method import DataInfo, Method, MethodConfig, Progress, Step
from smalti.models.backbone import Backbone, Features
from smalti.models.batch_norm import synchronize_batch_norm
from smalti.models.momentum import MomentumPair
from smalti.models.network import Network
from smalti.models.pyramid import PyramidNetwork
from smalti.views.canvas import Canvas
from smalti.views.montage import check_levels
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(MethodConfig):
    """Supervised training's settings; the defaults are those of a plain classifier.

    Attributes:
        fpn: read each view from its level of a feature pyramid network; else from the last map, not resized.
        levels: of the FPN; the views must have as many.
        channels: of the FPN.
        region_size: cells along a region read from a map.
        label_smoothing: share of the target that is spread evenly over all classes (arXiv:1512.00567).

    Example:
        >>> from smalti.methods import SupervisedConfig
        >>> SupervisedConfig(label_smoothing=0.1).fpn
        False
    """

    fpn: bool = False
    levels: int = 1
    channels: int = 256
    region_size: int = 7
    label_smoothing: float = 0.0
    scored: ClassVar[str] = "classifier"

    def __post_init__(self) -> None:
        require_count(self, "levels", "channels", "region_size")
        require_fraction(self, "label_smoothing")

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that cannot be classified."""
        if not views:
            raise UserError("no views", "one or more", "give the recipe e.g. a Crop")
        if self.fpn:
            check_levels(views, self.levels)

    def build(self, backbone: nn.Module, data: DataInfo) -> "Supervised":
        """The method, untrained; UserError for images without labels."""
        if not data.class_names:
            raise _without_labels()
        return Supervised(backbone, self, len(data.class_names))


class Supervised(Method):
    """A network and one linear layer that predicts the class of the image in every region.

    Args:
        backbone: of the network; any that `Backbone` can read.
        config: its settings.
        classes: their number.

    Example:
        >>> from smalti.methods import Progress, Supervised, SupervisedConfig
        >>> from smalti.models import TimmBackbone
        >>> from smalti.views import Collate, Montage
        >>> items = [(torch.rand(3, 40, 40), number % 5) for number in range(16)]
        >>> views = Collate([Montage(size=32, level=1)])(items)
        >>> method = Supervised(TimmBackbone(name="resnet18", stem="stride8").build(), SupervisedConfig(), classes=5)
        >>> loss, logs = method(views, Progress(step=0, total_steps=100, steps_per_epoch=10))
        >>> loss.backward()
    """

    def __init__(self, backbone: nn.Module, config: SupervisedConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        head = ClassifierConfig(classes)
        self.network = (
            PyramidNetwork(backbone, head, config.levels, config.channels, config.region_size)
            if config.fpn
            else Network(backbone, head, config.region_size)
        )
        synchronize_batch_norm(self.network)

    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """Cross-entropy of every region with its image's label, averaged over views; labels below 0 have no loss."""
        terms = []
        logs: dict[str, Tensor] = {}
        for number, (canvas, scores) in enumerate(zip(views, self.scores(views), strict=True)):
            if canvas.regions.label is None:
                raise _without_labels()
            label = canvas.regions.label.flatten()  # (N*K,)
            logits = scores.flatten(0, 1)  # (N*K, classes)
            losses = F.cross_entropy(
                logits,
                label.clamp(min=-1),
                ignore_index=-1,
                reduction="none",
                label_smoothing=self.config.label_smoothing,
            )
            terms.append(weighted_mean(losses, canvas.regions.weight))
            logs[f"loss_view_{number}"] = terms[-1].detach()
            logs.setdefault("accuracy", (logits.argmax(dim=1) == label).float().mean())
        return Step(torch.stack(terms).mean(), logs)

    def scores(self, views: Sequence[Canvas]) -> list[Tensor]:
        """A view's (N, K, classes), before softmax; a pyramid sees all views together, as in MCL."""
        if isinstance(self.network, PyramidNetwork):
            return self.network(views)
        return [self.network(canvas) for canvas in views]

    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        return []

    def encoder(self) -> Backbone:
        return self.network.backbone


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of the classifier: a linear layer.

    Attributes:
        classes: outputs.
    """

    classes: int

    def build(self, channels: int) -> nn.Module:
        """For C channels: Features of N -> (N, classes)."""
        return Classifier(channels, self.classes)


class Classifier(nn.Module):
    """One linear layer on the pooled feature."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, classes)

    def forward(self, features: Features) -> Tensor:
        return self.layer(features.pooled)


def _without_labels() -> UserError:
    return UserError("images without labels", "a class for every image", "put each class in a sub-folder of its own")
