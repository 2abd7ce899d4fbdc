"""The interface between methods and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from smalti.errors import UserError
from smalti.models.backbone import Backbone
from smalti.models.momentum import MomentumPair
from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: batches seen, over the whole run.
        total_steps: batches in the whole run.
        steps_per_epoch: batches in an epoch.
        seed: of the run.

    Example:
        >>> from smalti.methods import Progress
        >>> progress = Progress(step=30, total_steps=100, steps_per_epoch=10)
        >>> progress.fraction, progress.epoch
        (0.3, 3)
    """

    step: int
    total_steps: int
    steps_per_epoch: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Of the run, in [0, 1)."""
        return self.step / self.total_steps

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch


@dataclass(frozen=True)
class DataInfo:
    """The properties of the data that a method may use.

    Attributes:
        normalize: of the pixels that it is given.
        class_names: in the order of `Regions.label`; empty where images have no labels.
        num_images: in the data set, numbered by `Regions.index`; 0 where that is not known.

    Example:
        >>> from smalti import Normalize
        >>> from smalti.methods import DataInfo
        >>> DataInfo(Normalize((0.5,), (0.2,)), class_names=("cat", "dog")).class_names
        ('cat', 'dog')
    """

    normalize: Normalize
    class_names: tuple[str, ...] = ()
    num_images: int = 0


class Step(NamedTuple):
    """A training step's loss, a scalar, and the scalars to log, by name.

    Example:
        >>> from smalti.methods import Step
        >>> loss, logs = Step(torch.tensor(2.0), {"accuracy": torch.tensor(0.5)})
    """

    loss: Tensor
    logs: dict[str, Tensor]


class Method(nn.Module, ABC):
    """A way of learning from canvases, in plain torch; it works in one process or in several.

    The first canvases are standard views of every image, as many as the method asks for (most ask for two); further
    ones hold small crops, mosaics, montages.

    Example:
        >>> from smalti.methods import Method, Step
        >>> from smalti.models import Network, ProjectorConfig
        >>> class Agreement(Method):  # without what keeps it from a collapse
        ...     def __init__(self, backbone):
        ...         super().__init__()
        ...         self.network = Network(backbone, ProjectorConfig(dim=16), region_size=7)
        ...
        ...     def forward(self, views, progress):
        ...         first, second = (F.normalize(self.network(canvas), dim=-1) for canvas in views)
        ...         return Step(2 - 2 * (first * second).sum(dim=-1).mean(), {})
        ...
        ...     def momentum_pairs(self, progress):
        ...         return []
        ...
        ...     def encoder(self):
        ...         return self.network.backbone
        >>> Agreement(nn.Conv2d(3, 8, 8, stride=8)).encoder().dim
        8
    """

    @abstractmethod
    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """One step's loss."""

    @property
    def memory(self) -> int:
        """Images of earlier steps that it compares with: the length of a queue; 0 for none."""
        return 0

    def remember(self, views: Sequence[Canvas], progress: Progress) -> None:
        """Put a batch into this memory, and learn nothing: before the first step of a run that begins with weights."""
        return

    def after_backward(self, progress: Progress) -> None:
        """Change gradients before they are clipped and used; most methods leave them as they are."""
        return

    @abstractmethod
    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        """The slow copies that the training loop updates after every optimizer step."""

    @abstractmethod
    def encoder(self) -> Backbone:
        """The backbone to evaluate and to save."""


@dataclass(frozen=True)
class MethodConfig(ABC):
    """A method's settings: subclass it as a frozen dataclass above the method in its file.

    Attributes:
        scored: which of its networks `Method.encoder` returns: "query", "online", "teacher", ...

    Example:
        >>> from smalti import Normalize
        >>> from smalti.methods import BYOLConfig, DataInfo
        >>> from smalti.models import TimmBackbone
        >>> data = DataInfo(Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
        >>> type(BYOLConfig().build(TimmBackbone(name="resnet18").build(), data)).__name__
        'BYOL'
    """

    scored: ClassVar[str]

    @abstractmethod
    def build(self, backbone: nn.Module, data: DataInfo) -> Method:
        """The method, untrained; UserError for data that it cannot learn from."""

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that the method cannot learn from."""
        return


def check_standard_views(views: Sequence[Composition], count: int, what: str) -> None:
    """Raise UserError unless the first `count` views are standard ones; `what` names their part in the method."""
    if len(views) < count or not all(view.standard for view in views[:count]):
        raise UserError(
            f"views {', '.join(type(view).__name__ for view in views) or 'none'}",
            f"first {what}, one whole canvas an image",
            f"begin the recipe's views with {count} of Crop(count=1)",
        )
