"""What every method is to the engine."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.momentum import MomentumPair
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


class Step(NamedTuple):
    """A training step's loss, a scalar, and what is worth logging, scalars by name."""

    loss: Tensor
    logs: dict[str, Tensor]


class Method(nn.Module, ABC):
    """A way of learning from canvases: plain torch, no engine, and in one process no talk between processes.

    The first two canvases are the standard views of every image; any further ones hold small crops, mosaics, montages.
    """

    @abstractmethod
    def forward(self, views: Sequence[Canvas], progress: Progress) -> Step:
        """One step's loss."""

    @abstractmethod
    def momentum_pairs(self, progress: Progress) -> list[MomentumPair]:
        """What the engine moves after every real optimiser step."""

    @abstractmethod
    def encoder(self) -> Backbone:
        """The backbone to score and to hand on."""


class MethodConfig(Protocol):
    """A method's settings, a frozen dataclass that stands above the method in its file."""

    def check(self, views: Sequence[Composition]) -> None:
        """Raise UserError for views that the method cannot learn from."""
        ...

    def build(self, backbone: BackboneConfig) -> Method:
        """The method, untrained."""
        ...
