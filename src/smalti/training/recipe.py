"""A recipe: everything that decides what a run learns, in one frozen object."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from smalti.errors import UserError
from smalti.images.statistics import PixelStatistics
from smalti.methods.method import MethodConfig
from smalti.methods.moco import MoCoConfig
from smalti.models.backbone import BackboneConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.normalize import Normalize
from smalti.training.optim import OptimizerConfig
from smalti.views.blocks import choose_block
from smalti.views.plan import Composition


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run's settings; a published one is a function in `smalti.recipes` that returns it.

    Attributes:
        name: of the recipe.
        source: paper, section or table that it follows.
        published: figure that its source reports, in words.
        views: compositions made of every batch; the first two (or one, as the method asks) are the standard views.
        backbone: the network to train.
        init: weights that the network begins with: anything that `smalti.load_encoder` takes, such as "timm:resnet50",
            an earlier run or a checkpoint, and every tensor has to fit; "" for random ones.
        method: what it learns by.
        optimizer: how its weights move.
        epochs: passes over the images.
        batch_size: images of an optimizer step, over all devices.
        accumulate: parts in which a batch is taken, to save memory; queue and batch statistics see one part at a time.
        block: images among which tiles are assigned to canvases; 0 to let `choose_block` choose.
        mean: of every channel of pixels in [0, 1], with which they are normalized; empty for what `measure` finds in
            the data (ImageNet's for 8-bit RGB).
        std: the deviation of every channel, likewise.
        seed: of everything random.
        precision: "auto" is bfloat16 where the hardware computes in it, else 32 bits.
        executor: where views are made: by the loader's processes on the "host", on the training "device", or "auto":
            on the device for small images held in memory, else on the host.
        max_bad_fraction: of the files that may be unusable before the run stops (a few always may).

    Example:
        >>> from smalti.methods import BYOLConfig
        >>> from smalti.recipes import Recipe
        >>> from smalti.views import Crop, Mosaic
        >>> recipe = Recipe(name="mine", views=(Crop(), Crop(), Mosaic()), method=BYOLConfig(), epochs=100)
        >>> recipe.image_size, recipe.resized(96).views[2].canvas_size
        (224, 96)
    """

    name: str
    source: str = ""
    published: str = ""
    views: tuple[Composition, ...]
    backbone: BackboneConfig = field(default_factory=TimmBackbone)
    init: str = ""
    method: MethodConfig = field(default_factory=MoCoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 200
    batch_size: int = 256
    accumulate: int = 1
    block: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seed: int = 0
    precision: Literal["auto", "bf16", "32"] = "auto"
    executor: Literal["auto", "host", "device"] = "auto"
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} {getattr(self, name)}", "1 or more", f"give a larger --{name.replace('_', '-')}"
                )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed}", "0 to 2^63 - 1", "give another --seed")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"a batch of {self.batch_size} in {self.accumulate} parts",
                "a whole number of images a part",
                "change --batch-size or --accumulate",
            )
        Normalize(self.mean, self.std)  # raises where the two do not fit
        self.method.check(self.views)

    @property
    def image_size(self) -> int:
        """Side of a standard view, at which the encoder is scored too, pixels."""
        return self.views[0].canvas_size

    @property
    def micro_batch(self) -> int:
        """Images that go through the network at once, over all devices."""
        return self.batch_size // self.accumulate

    @property
    def block_size(self) -> int:
        """Images among which tiles are assigned to canvases."""
        return self.block or choose_block(self.micro_batch, self.views)

    def pixels(self, measured: PixelStatistics) -> PixelStatistics:
        """The statistics of the data with the recipe's mean and deviation in place of theirs, where it has any."""
        if self.mean and len(self.mean) != len(measured.mean):
            raise UserError(
                f"a recipe's mean of {len(self.mean)} channels for images of {len(measured.mean)}",
                "one number a channel",
                "change --mean and --std",
            )
        return dataclasses.replace(measured, mean=self.mean, std=self.std) if self.mean else measured

    def resized(self, image_size: int) -> "Recipe":
        """The recipe with every view, tile and shift scaled so that a standard view measures `image_size` pixels."""
        factor = image_size / self.image_size
        return dataclasses.replace(self, views=tuple(view.resized(factor) for view in self.views))

    def to_json(self) -> str:
        """Every field, with each component's class beside its fields."""
        return json.dumps(_plain(self), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"class": type(value).__name__}
        return named | {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
