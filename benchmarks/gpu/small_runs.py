"""CIFAR-10 through the front door: images a second of the small recipes, and lightly's loader beside them."""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.gpu.scale import Scale
from benchmarks.measure import begin
from smalti import api
from smalti.images.catalog import open_source
from smalti.images.statistics import measure as measure_statistics
from smalti.runs import RunFolder
from smalti.training.fit import Engine
from smalti.training.hardware import available_cores
from smalti.training.loop import train_step
from smalti.views.canvas import Canvas, Regions
from smalti.views.loader import BatchOrder

_EPOCHS = 200  # of the published runs


def pretraining_speed(name: str, data: Path, scale: Scale) -> dict[str, Any]:
    """Images a second of `pretrain`, from the second line of its log on, and what 200 epochs would take."""
    recipe = scale.small(name, scale.speed_epochs)
    engine = Engine(logger="none", score_every=-1, log_every=2 if scale.small_batch else 10)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        api.pretrain(data, folder, recipe, engine=engine)
        seconds = time.perf_counter() - start
        lines = [line for line in RunFolder(folder).metrics() if "images_per_second" in line][1:]
    images = len(open_source(data, "train"))
    speed = float(np.median([line["images_per_second"] for line in lines]))
    return {
        "images a second": speed,
        "share of the time spent waiting for data": float(np.median([line["data_wait"] for line in lines])),
        "seconds of the whole call": seconds,
        "minutes for 200 epochs": _EPOCHS * images / speed / 60,
        "targets": {"minutes for 200 epochs": 8},
    }


def lightly_speed(data: Path, scale: Scale, seconds: float = 60.0) -> dict[str, Any]:
    """The multi-crop recipe's own step, fed by lightly's transforms in a loader of one worker a core."""
    if importlib.util.find_spec("lightly") is None:
        return {"skipped": "lightly is not installed"}
    from lightly.transforms import SwaVTransform

    recipe = scale.small("moco_v2_multicrop_small", scale.speed_epochs)
    transform = SwaVTransform(
        crop_sizes=(32, 16),
        crop_counts=(2, 4),
        crop_min_scales=(0.2, 0.1),
        crop_max_scales=(1.0, 0.6),
        cj_strength=0.5,
        gaussian_blur=0.0,
    )
    source = open_source(data, "train")
    order = BatchOrder(num_images=len(source), batch_size=recipe.batch_size, seed=0)
    state, fabric = begin(recipe, measure_statistics(source), order, device=scale.device)
    loader = DataLoader(
        ImageFolder(str(data / "train"), transform),
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=available_cores(),
        pin_memory=scale.device == "cuda",
        persistent_workers=True,
    )
    done, start = 0, 0.0
    for step, (views, _) in enumerate(_forever(loader)):
        train_step(state, _canvases(views, scale.device), step, fabric)
        if scale.device == "cuda":
            torch.cuda.synchronize()
        if step == 4:  # the loader has filled its queues, the libraries have chosen their kernels
            start = time.perf_counter()
        elif step > 4:
            done += recipe.batch_size
            if time.perf_counter() - start > seconds:
                break
    return {"images a second": done / (time.perf_counter() - start), "workers": available_cores()}


def _forever(loader: DataLoader) -> Any:
    while True:
        yield from loader


def _canvases(views: list[Tensor], device: str) -> list[Canvas]:
    """Two large views, and the small ones together, crop by crop."""
    pixels = [view.to(device, non_blocking=True, memory_format=torch.channels_last) for view in views]
    return [_canvas(pixels[:1]), _canvas(pixels[1:2]), _canvas(pixels[2:])]


def _canvas(views: list[Tensor]) -> Canvas:
    pixels = torch.cat(views)
    count, side = len(pixels), float(pixels.shape[-1])
    regions = Regions(
        source=torch.arange(len(views[0])).repeat(len(views))[:, None],
        boxes=torch.tensor([0.0, 0.0, side, side]).expand(count, 1, 4),
        weight=torch.ones(count, 1),
        whole=True,
    )
    return Canvas(pixels=pixels, regions=regions.to(pixels.device))
