"""What every method is to the engine."""

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
    """Where the run stands.

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
    """What a method may know of the data.

    Attributes:
        normalize: of the pixels that it is given.
        class_names: in the order of `Regions.label`; empty where images have no labels.
        num_images: in the data set, numbered by `Regions.index`; 0 where that is not known.
    """

    normalize: Normalize
    class_names: tuple[str, ...] = ()
    num_images: int = 0


class Step(NamedTuple):
    """A training step's loss, a scalar, and what is worth logging, scalars by name."""

    loss: Tensor
    logs: dict[str, Tensor]


class Method(nn.Module, ABC):
    """A way of learning from canvases: plain torch, no engine, and in one process no talk between processes.

    The first canvases are standard views of every image, as many as the method asks for (most ask for two); further
    ones hold small crops, mosaics, montages.
    """

    @abstractmethod
    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """One step's loss."""

    def after_backward(self, progress: Progress) -> None:
        """Change gradients before they are clipped and used, where a method must; most leave them as they are."""
        return

    @abstractmethod
    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        """What the engine moves after every real optimizer step."""

    @abstractmethod
    def encoder(self) -> Backbone:
        """The backbone to score and to hand on."""


@dataclass(frozen=True)
class MethodConfig(ABC):
    """A method's settings: subclass it as a frozen dataclass above the method in its file.

    Attributes:
        scored: which of its networks `Method.encoder` hands on: "query", "online", "teacher".
    """

    scored: ClassVar[str]

    @abstractmethod
    def build(self, backbone: nn.Module, data: DataInfo) -> Method:
        """The method, untrained; UserError for data that it cannot learn from."""

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that the method cannot learn from."""
        return


def check_standard_views(views: Sequence[Composition], count: int, what: str) -> None:
    """Raise UserError unless the first `count` views are standard ones; `what` says what they are to the method."""
    if len(views) < count or not all(view.standard for view in views[:count]):
        raise UserError(
            f"views {', '.join(type(view).__name__ for view in views) or 'none'}",
            f"first {what}, one whole canvas an image",
            f"begin the recipe's views with {count} of Crop(count=1)",
        )
