"""A training step of mosrep_moco_small on the CPU: what composing and pooling take of it, and what the engine adds.

The engine runs a real `fit`. Its loader hands out batches made beforehand, and between two of them takes the same step
on weights of its own, with nothing around it: so both share whatever else the machine is doing, and must end with the
same loss. On one core, and only the time that this process had it.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
import tyro
from lightning_fabric import Fabric

from benchmarks.figures import Figure, show
from benchmarks.measure import begin, figure, interleave, use_one_core
from benchmarks.shares import apart, mosaic_of, pooling
from smalti.images.photos import photos
from smalti.images.statistics import measure as measure_statistics
from smalti.recipes import get_recipe
from smalti.runs import RunFolder
from smalti.training.fit import Engine, fit
from smalti.training.loop import train_step
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import Batch, canvases
from smalti.views.loader import BatchOrder, ViewDataset

_LOG_EVERY = 3  # a third of the default; times are compared over so many steps, of which one is logged


def measure(quick: bool = False) -> list[Figure]:
    """Time steps.

    Args:
        quick: a rough look.
    """
    use_one_core()
    base = get_recipe("mosrep_moco_small")
    batch = 8 if quick else 16
    recipe = replace(base, batch_size=batch, epochs=1, method=replace(base.method, shuffle_bn_group=batch // 2))
    return [*_shares(recipe, rounds=3 if quick else 9), *_overhead(recipe, blocks=2 if quick else 6)]


def _shares(recipe: Recipe, rounds: int) -> list[Figure]:
    source = photos(size=32)
    statistics = measure_statistics(source)
    order = BatchOrder(num_images=len(source), batch_size=recipe.batch_size, seed=0)
    state, fabric = begin(recipe, statistics, order)
    mosaic = mosaic_of(recipe)
    together, separate = (ViewDataset(source, (view,), order, statistics, "device") for view in (mosaic, apart(mosaic)))
    every = ViewDataset(source, recipe.views, order, statistics, "device")
    views = canvases(every[0], recipe.views, state.normalize)
    with torch.no_grad():
        maps = state.method.encoder()(views[2].pixels).map
    seconds = interleave(
        {
            "step": lambda n: train_step(state, canvases(every[n], recipe.views, state.normalize), n, fabric),
            "views": lambda n: canvases(every[n], recipe.views, state.normalize),
            "mosaic": lambda n: canvases(together[n], (mosaic,), state.normalize),
            "apart": lambda n: canvases(separate[n], (apart(mosaic),), state.normalize),
            "pooling": pooling(maps, views[2].regions, mosaic.canvas_size, recipe.method.region_size),
        },
        rounds,
        clock=time.process_time,
    )
    step = seconds["step"]
    composing = seconds["mosaic"] - seconds["apart"]
    return [
        figure("step", 1e3 * step, "ms"),
        figure("all views / step", seconds["views"] / step),
        figure("composing / step", composing / step),
        figure("region pooling / step", seconds["pooling"] / step),
        figure("composing + region pooling / step", (composing + seconds["pooling"]) / step, at_most=0.02),
    ]


def _overhead(recipe: Recipe, blocks: int) -> list[Figure]:
    steps = (blocks + 2) * _LOG_EVERY  # the first block warms up, the last one ends the run
    count = steps * recipe.batch_size
    source = photos(size=32, per_class_train=count // 19 + 1)
    statistics = measure_statistics(source)
    order = BatchOrder(num_images=len(source), batch_size=recipe.batch_size, seed=recipe.seed)
    recipe = replace(recipe, executor="device")
    bare = begin(recipe, statistics, order)
    pairs: list[_Paired] = []

    def paired_loader(dataset: ViewDataset, steps: range, workers: int, pin_memory: bool) -> "_Paired":
        pairs.append(_Paired([dataset[step] for step in steps], *bare))
        return pairs[-1]

    with tempfile.TemporaryDirectory() as folder, patch("smalti.training.fit.load_batches", paired_loader):
        engine = Engine(log_every=_LOG_EVERY, checkpoint_every=10**9, score_every=-1)
        fit(source, RunFolder(folder), recipe, statistics, engine=engine, export=lambda backbone: None)
        last_loss = RunFolder(folder).metrics()[-1]["loss"]
    pair = pairs[0]
    return [
        figure("engine / bare steps", pair.ratios(), at_most=1.03),
        Figure(
            name="engine and bare steps end with the same loss", value=float(last_loss == pair.last_loss), at_least=1.0
        ),
    ]


class _Paired:
    """A loader that takes each step itself, with nothing around it, before it hands the batch to the engine."""

    def __init__(self, batches: list[Batch], state: TrainState, fabric: Fabric) -> None:
        self._batches, self._state, self._fabric = batches, state, fabric
        self.bare: list[float] = []
        self.engine: list[float] = []
        self.last_loss = 0.0

    def __len__(self) -> int:
        return len(self._batches)

    def close(self) -> None:
        """There are no workers to end."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            start = time.process_time()
            views = canvases(batch, self._state.recipe.views, self._state.normalize)
            self.last_loss = float(train_step(self._state, views, batch.step, self._fabric).loss)
            middle = time.process_time()
            self.bare.append(middle - start)
            yield batch
            self.engine.append(time.process_time() - middle)

    def ratios(self) -> np.ndarray:
        """Seconds of the engine over those of the bare steps, block by block, without the first and the last."""
        steps = (len(self.engine) - 1) // _LOG_EVERY * _LOG_EVERY
        bare, engine = (np.array(x[:steps]).reshape(-1, _LOG_EVERY).sum(axis=1) for x in (self.bare, self.engine))
        return (engine / bare)[1:]


if __name__ == "__main__":
    show(tyro.cli(measure))
