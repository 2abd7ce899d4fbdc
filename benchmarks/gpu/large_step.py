"""ResNet-50 at 224: what views, composing and pooling take of a MosRep step from images stored on the device.

Plans are drawn beforehand, as the loader's workers do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import described, device_times
from benchmarks.measure import begin
from benchmarks.shares import apart, mosaic_of, pooling
from smalti.images.statistics import PixelStatistics
from smalti.normalize import IMAGENET_MEAN, IMAGENET_STD
from smalti.training.loop import train_step
from smalti.training.state import TrainState
from smalti.views.batch import Batch, canvases
from smalti.views.canvas import Canvas
from smalti.views.loader import BatchOrder
from smalti.views.plan import Composition
from smalti.views.rng import ViewRNG

_STATISTICS = PixelStatistics(low=0.0, high=255.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_BATCHES = 4  # of plans, used in turn


def large_step(scale: Scale) -> dict[str, Any]:
    """Times and shares; the targets are in `targets`."""
    recipe = scale.large("mosrep_moco")
    order = BatchOrder(num_images=64 * scale.batch, batch_size=scale.batch, seed=0)
    state, fabric = begin(recipe, _STATISTICS, order, device=scale.device)
    generator = torch.Generator(scale.device).manual_seed(0)
    stored = torch.randint(
        256,
        (scale.batch, 3, scale.stored, scale.stored),
        dtype=torch.uint8,
        device=scale.device,
        generator=generator,
    )
    mosaic = mosaic_of(recipe)

    def making(views: tuple[Composition, ...]) -> Callable[[int], list[Canvas]]:
        batches = [_batch(views, stored, order, step) for step in range(_BATCHES)]
        return lambda step: canvases(batches[step % _BATCHES], views, state.normalize)

    make = making(recipe.views)
    ready = make(0)
    maps = _maps(state, fabric, ready[2].pixels)
    seconds = device_times(
        {
            "whole step": lambda step: train_step(state, make(step), step, fabric),
            "step on ready tensors": lambda step: train_step(state, ready, step, fabric),
            "views": make,
            "mosaics": making((mosaic,)),
            "the same tiles apart": making((apart(mosaic),)),
            "region pooling": pooling(maps, ready[2].regions, mosaic.canvas_size, recipe.method.region_size),
        },
        scale,
    )
    whole = seconds["whole step"]
    composing = seconds["mosaics"] - seconds["the same tiles apart"]
    return {
        "seconds": {name: described(values) for name, values in seconds.items()},
        "images a second": described(scale.batch / whole),
        "views / step": described(seconds["views"] / whole),
        "whole step / step on ready tensors": described(whole / seconds["step on ready tensors"]),
        "composing + region pooling / step": described((composing + seconds["region pooling"]) / whole),
        "targets": {
            "views / step": 0.03,
            "whole step / step on ready tensors": 1.05,
            "composing + region pooling / step": 0.02,
        },
    }


def _batch(views: tuple[Composition, ...], stored: torch.Tensor, order: BatchOrder, step: int) -> Batch:
    sizes = np.full((len(stored), 2), stored.shape[-1])
    indices = order.indices(step)
    plans = [
        view.plan(
            sizes, ViewRNG(seed=0, epoch=0, step=step, view=number, images=indices, first=0, block=order.block_size)
        )
        for number, view in enumerate(views)
    ]
    return Batch(step=step, plans=plans, images=stored)


@torch.no_grad()
def _maps(state: TrainState, fabric: Fabric, pixels: torch.Tensor) -> torch.Tensor:
    with fabric.autocast():
        return state.method.encoder()(pixels).map
