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
        normalize: the normalization of the pixels.
        class_names: in the order of `Regions.label`; empty where images have no labels.
    """

    normalize: Normalize
    class_names: tuple[str, ...] = ()


class Step(NamedTuple):
    """A training step's loss, a scalar, and the scalars to log, by name."""

    loss: Tensor
    logs: dict[str, Tensor]


class Method(nn.Module, ABC):
    """A way of learning from canvases, in plain torch; it works in one process or in several.

    The first canvases are standard views of every image, as many as the method asks for (most ask for two); further
    ones hold small crops, mosaics, montages.
    """

    @abstractmethod
    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """One step's loss."""

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
