"""Time and memory of a step of every system, beside two-crop MoCo-v2 on the same backbone and the same images.

A step is taken on ready-made views of 32 px. Memory is what a step keeps for its backward pass, counted tensor by
tensor, and what lasts from step to step: weights and buffers.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

import torch
import tyro
from torch import Tensor

from benchmarks.figures import Figure, show
from benchmarks.measure import begin, figure, interleave, use_one_core
from smalti.images.array import ArraySource
from smalti.images.photos import photos
from smalti.images.statistics import PixelStatistics
from smalti.images.statistics import measure as measure_statistics
from smalti.models.split import SplitBackbone
from smalti.recipes import all_recipes, get_recipe
from smalti.training.loop import train_step
from smalti.training.recipe import Recipe
from smalti.views.batch import canvases
from smalti.views.canvas import Canvas
from smalti.views.loader import BatchOrder, ViewDataset

BASELINE = "moco_v2_small"
NEEDS_A_FILE = ("affinity_small",)  # a teacher that the user brings


def measure(quick: bool = False) -> list[Figure]:
    """Time a step of every small recipe, and count its bytes.

    Args:
        quick: a rough look.
    """
    use_one_core()
    source = photos(size=32)
    statistics = measure_statistics(source)
    names = [name for name in all_recipes() if name.endswith("_small") and name not in NEEDS_A_FILE]
    names = [BASELINE, *(name for name in names if name != BASELINE)]
    steps = {name: _Step(_beside_baseline(get_recipe(name)), source, statistics) for name in names}
    seconds = interleave(steps, rounds=1 if quick else 3, clock=time.process_time)
    held = {name: step.held_for_backward() for name, step in steps.items()}
    kept = {name: _bytes(step.state()) for name, step in steps.items()}
    figures = [
        figure(f"{BASELINE}: step", 1e3 * seconds[BASELINE], "ms"),
        Figure(name=f"{BASELINE}: held for the backward pass", value=held[BASELINE] / 2**20, unit="MiB"),
        Figure(name=f"{BASELINE}: weights and buffers", value=kept[BASELINE] / 2**20, unit="MiB"),
    ]
    for name in names[1:]:
        figures += [
            figure(f"{name} / {BASELINE}: step", seconds[name] / seconds[BASELINE]),
            Figure(name=f"{name} / {BASELINE}: held for the backward pass", value=held[name] / held[BASELINE]),
            Figure(name=f"{name} / {BASELINE}: weights and buffers", value=kept[name] / kept[BASELINE]),
        ]
    return figures


def _beside_baseline(recipe: Recipe) -> Recipe:
    """The recipe on the baseline's backbone; two half-width ones where it splits colors."""
    splits = isinstance(recipe.backbone, SplitBackbone)
    backbone = recipe.backbone if splits else get_recipe(BASELINE).backbone
    return replace(recipe, backbone=backbone, batch_size=32, accumulate=1, block=0, precision="32")


class _Step:
    """A step of a recipe on views made once."""

    def __init__(self, recipe: Recipe, source: ArraySource, statistics: PixelStatistics) -> None:
        order = BatchOrder(num_images=len(source), batch_size=recipe.batch_size, seed=0)
        self._state, self._fabric = begin(recipe, statistics, order, source.class_names)
        dataset = ViewDataset(source, recipe.views, order, statistics, "device")
        self._views: list[Canvas] = canvases(dataset[0], recipe.views, self._state.normalize)

    def __call__(self, number: int) -> Tensor:
        return train_step(self._state, self._views, number, self._fabric).loss

    def state(self) -> Iterable[Tensor]:
        return self._state.method.state_dict().values()

    def held_for_backward(self) -> int:
        """Bytes of the tensors that autograd keeps, weights and views left out."""
        own = {_memory(tensor) for tensor in [*self.state(), *(view.pixels for view in self._views)]}
        found: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if _memory(tensor) not in own:
                found[_memory(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, _as_it_is):
            self(1)
        return sum(found.values())


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    show(tyro.cli(measure))
