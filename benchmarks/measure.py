"""Side-by-side timing for machines that others use too: contestants take turns, and medians of ratios count."""

import os
import time
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from benchmarks.figures import Figure
from smalti.images.statistics import PixelStatistics
from smalti.training.hardware import resolve_precision
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.loader import BatchOrder

Times = NDArray[np.float64]


def begin(
    recipe: Recipe,
    statistics: PixelStatistics,
    order: BatchOrder,
    class_names: tuple[str, ...] = (),
    device: str = "cpu",
) -> tuple[TrainState, Fabric]:
    """What `train_step` takes, for steps with nothing around them."""
    fabric = Fabric(accelerator=device, devices=1, precision=resolve_precision(recipe.precision))
    state = TrainState.begin(recipe, statistics.normalize, order.steps_per_epoch, class_names, order.num_images)
    state.to(fabric.device)
    return state, fabric


def interleave(
    contestants: Mapping[str, Callable[[int], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, Times]:
    """Seconds of every contestant in every round.

    Args:
        contestants: called with the number of the round, all in each round, in an order that turns from round to round.
        rounds: repetitions that count.
        clock: `time.process_time` leaves out what other processes take, where only one thread works.
        warm_up: rounds before them.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            start = clock()
            contestants[name](number)
            if number >= warm_up:
                seconds[name].append(clock() - start)
            else:
                clock()
    return {name: np.array(values) for name, values in seconds.items()}


def figure(name: str, values: Times, unit: str = "", **target: float) -> Figure:
    """The median and the distance of the quartiles; `target` as in `Figure`."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Figure(name=name, value=float(middle), unit=unit, spread=float(high - low), **target)


def use_one_core() -> None:
    """Keep this process, and every library in it, to one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
