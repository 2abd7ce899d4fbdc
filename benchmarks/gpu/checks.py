"""Is what runs on the GPU the same as what was tested on the CPU?"""

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from benchmarks.gpu.scale import Scale
from benchmarks.measure import begin
from smalti.images.photos import photos
from smalti.images.statistics import measure as measure_statistics
from smalti.models.backbone import Backbone
from smalti.models.batch_norm import split_batch_norm
from smalti.recipes import get_recipe
from smalti.runs import RunFolder
from smalti.training.fit import Engine, fit
from smalti.training.hardware import resolve_precision
from smalti.training.loop import train_step
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import Batch, canvases
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.render_device import render


def executors(scale: Scale) -> dict[str, Any]:
    """Largest and mean difference, levels of 255, of device views from host views and from the CPU's in float32."""
    source = photos(size=64)
    recipe = get_recipe("mosrep_moco").resized(64)
    order = BatchOrder(num_images=len(source), batch_size=32, seed=0)
    statistics = measure_statistics(source)
    host, device = (
        ViewDataset(source, recipe.views, order, statistics, executor)[0] for executor in ("host", "device")
    )
    assert device.images is not None
    differences: dict[str, Any] = {}
    for number, plan in enumerate(device.plans):
        here = render(plan, device.images)
        there = render(plan, device.images.to(scale.device)).float().cpu()
        from_host = (255 * there - host.pixels[number].float()).abs()
        differences[f"view {number}"] = {
            "from the CPU, largest": float(255 * (there - here).abs().max()),
            "from the CPU, mean": float(255 * (there - here).abs().mean()),
            "from the host, 99.9%": float(np.quantile(from_host.numpy(), 0.999)),
            "from the host, mean": float(from_host.mean()),
        }
    means = [view["from the host, mean"] for view in differences.values()]
    largest = [view["from the CPU, mean"] for view in differences.values()]
    return {"ok": max(means) < 1.0 and max(largest) < 0.2, "levels": differences}


def steps(name: str, scale: Scale) -> dict[str, Any]:
    """Three steps of a recipe in the machine's precision, channels last: finite losses, and weights that moved."""
    recipe = scale.small(name, epochs=1)
    state, fabric, batches = _begin(recipe, scale, count=3)
    before = next(state.method.encoder().parameters()).detach().clone()
    losses = [
        float(train_step(state, canvases(batch, recipe.views, state.normalize), n, fabric).loss)
        for n, batch in enumerate(batches)
    ]
    weight = next(state.method.encoder().parameters())
    return {
        "ok": bool(np.isfinite(losses).all() and not torch.equal(before, weight)),
        "losses": losses,
        "bfloat16": resolve_precision(recipe.precision) == "bf16-mixed",
    }


def split_batch_norm_groups(scale: Scale) -> dict[str, Any]:
    """Each group of a split normalization gives what a plain one gives for the group alone."""
    torch.manual_seed(0)
    x = torch.randn(12, 8, 5, 5, device=scale.device).to(memory_format=torch.channels_last)
    plain, split = (torch.nn.BatchNorm2d(8).to(scale.device) for _ in range(2))
    split_batch_norm(split).count = 3
    with torch.no_grad():
        difference = float((split(x) - torch.cat([plain(part) for part in x.chunk(3)])).abs().max())
    return {"ok": difference < 1e-5, "largest difference": difference}


class _CutOff(Exception):  # noqa: N818 - not an error
    """Ends a run in the middle of an epoch."""


def resume(scale: Scale) -> dict[str, Any]:
    """A run that was cut off and continued, against one that was not."""
    recipe = replace(scale.small("mosrep_moco_small", epochs=2), batch_size=scale.small_batch or 64, executor="device")
    source = photos(size=32, per_class_train=3 * recipe.batch_size // 19 + 1)  # three steps an epoch
    statistics = measure_statistics(source)
    engine = Engine(logger="none", checkpoint_every=2, score_every=-1, workers=0)

    def train(run: str, export: Callable[[Backbone], None] = lambda backbone: None) -> TrainState:
        return fit(source, RunFolder(run), recipe, statistics, engine=engine, export=export, resume=True)

    def cut_off(_backbone: Backbone) -> None:
        raise _CutOff  # after the first checkpoint was written

    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as parts:
        straight = train(whole)
        with contextlib.suppress(_CutOff):
            train(parts, cut_off)
        resumed = train(parts)
    pairs = zip(straight.method.parameters(), resumed.method.parameters(), strict=True)
    difference = max(float((a.detach().cpu() - b.detach().cpu()).abs().max()) for a, b in pairs)
    # On a GPU sums run in no fixed order, so that weights drift apart a little with every step.
    return {
        "ok": straight.next_step == resumed.next_step and difference < (1e-2 if scale.device == "cuda" else 1e-12),
        "next step": [straight.next_step, resumed.next_step],
        "largest difference of a weight": difference,
    }


def _begin(recipe: Recipe, scale: Scale, count: int) -> tuple[TrainState, Fabric, list[Batch]]:
    source = photos(size=32)
    statistics = measure_statistics(source)
    order = BatchOrder(num_images=len(source), batch_size=recipe.batch_size, seed=0)
    dataset = ViewDataset(source, recipe.views, order, statistics, "device")
    device = torch.device(scale.device)
    state, fabric = begin(recipe, statistics, order, source.class_names, scale.device)
    return state, fabric, [dataset[n].to(device) for n in range(count)]
