"""The first twenty losses of every recipe, made small, on the embedded photographs.

`PYTHONPATH=. python tests/recipes/traces.py` writes them again.

Views and arithmetic are in double precision on the CPU, so that a trace is the same on every machine to many digits.
What is made smaller is what costs time: images, batch, widths, queue. Everything else is the recipe's own.
"""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from smalti.images.array import ArraySource
from smalti.images.photos import photos
from smalti.images.source import Subset
from smalti.images.statistics import PixelStatistics, measure
from smalti.methods.affinity import AffinityConfig
from smalti.models.backbone import BackboneConfig
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.recipes import all_recipes, get_recipe
from smalti.training.loop import train_step
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import canvases
from smalti.views.loader import BatchOrder, ViewDataset

FOLDER = Path(__file__).with_name("golden")
STEPS = 20
_TEACHER = str(Path(__file__).parent.parent / "tiny_teacher.py")
_BATCHES = (8, 16, 32)
_MOST_PIXELS = {"resnet": 64, "vit": 112, "swin": 64}  # at 112 px local crops still have whole patches of 16
_WIDEST = 16
_FAMILIES: dict[str, dict[str, Any]] = {
    "resnet": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "vit": {"depth": 1, "embed_dim": 24, "num_heads": 3},
    "swin": {"depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 2, 2], "window_size": 2},
}


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def read(name: str) -> list[float]:
    """The losses on file."""
    return [float(line) for line in path_of(name).read_text().splitlines()]


def shrunk(recipe: Recipe) -> Recipe:
    """The recipe with small images, batch and widths."""
    most = _MOST_PIXELS[next(name for name in _FAMILIES if recipe.backbone.name.startswith(name))]
    if recipe.image_size > most:
        recipe = recipe.resized(most)
    batch = next(batch for batch in _BATCHES if _can_deal(recipe, batch))
    if isinstance(recipe.method, AffinityConfig):
        recipe = replace(recipe, method=replace(recipe.method, teacher=_TEACHER))
    return replace(
        recipe,
        backbone=_narrow_backbone(recipe.backbone),
        method=_narrow(recipe.method),
        optimizer=replace(recipe.optimizer, warmup_epochs=min(recipe.optimizer.warmup_epochs, 0.2)),
        epochs=1,
        batch_size=batch,
        accumulate=1,
        block=0,
        precision="32",
    )


def _can_deal(recipe: Recipe, batch: int) -> bool:
    try:
        for view in recipe.views:
            view.check_block(batch)
    except ValueError:
        return False
    return True


def _narrow_backbone(config: BackboneConfig) -> BackboneConfig:
    if isinstance(config, SplitBackbone):
        return replace(config, half=_narrow_backbone(config.half))
    assert isinstance(config, TimmBackbone)
    family = next(name for name in _FAMILIES if config.name.startswith(name))
    return replace(config, width=1.0, options=config.options | _FAMILIES[family])


def _narrow(config: Any) -> Any:
    """Every whole number above `_WIDEST` in a method's settings becomes it: queues, widths, prototypes.

    What waits for epochs waits for a few steps, so that the trace feels it.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _narrow(value)
        elif field.name.endswith("_epochs"):
            changes[field.name] = type(value)(min(value, 0.2))
        elif type(value) is int:
            changes[field.name] = min(value, _WIDEST)
    return replace(config, **changes)


@cache
def _images() -> tuple[ArraySource, PixelStatistics]:
    source = photos("train")
    return source, measure(source)


def trace(recipe: Recipe, steps: int = STEPS) -> list[float]:
    """The losses of the first steps; recipes that differ in their length alone are the same when small."""
    recipe = replace(shrunk(recipe), name="", source="", published="")
    key = recipe.to_json(), steps
    if key not in _traced:
        _traced[key] = list(_train(recipe, steps))
    return _traced[key]


_traced: dict[tuple[str, int], list[float]] = {}


def _train(recipe: Recipe, steps: int) -> Iterator[float]:
    everything, measured = _images()
    statistics = recipe.pixels(measured)
    count = recipe.batch_size * STEPS
    source = Subset(everything, np.arange(count) * len(everything) // count)
    order = BatchOrder(num_images=count, batch_size=recipe.batch_size, seed=recipe.seed)
    state = TrainState.begin(recipe, statistics.normalize, order.steps_per_epoch, source.class_names, count)
    state.method.double()
    fabric = Fabric(accelerator="cpu", devices=1)
    dataset = ViewDataset(source, recipe.views, order, statistics, "device")
    for step in range(steps):
        batch = dataset[step]
        assert batch.images is not None
        batch.images = batch.images.double() / 255
        yield float(train_step(state, canvases(batch, recipe.views, state.normalize), step, fabric).loss)


def main() -> None:
    """Write the traces of the recipes named on the command line, or of all."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or all_recipes():
        path_of(name).write_text("".join(f"{loss:.9g}\n" for loss in trace(get_recipe(name))))
        print(name, path_of(name).read_text().split()[:: STEPS - 1])


if __name__ == "__main__":
    main()
