"""The papers' claim as far as two cores reach: the demonstration's photographs and network, one budget for every arm.

    python -m benchmarks.quality_cpu --out results/quality_cpu.json

Last epoch, kNN and linear, every run kept; written after every run, and runs that are there are not made again, so two
processes may share the work.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.figures import machine
from smalti import api
from smalti.files import atomic
from smalti.recipes.photos import photos_demo
from smalti.training.fit import Engine
from smalti.training.recipe import Recipe
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic


@dataclass
class Arguments:
    out: Path = Path("results/quality_cpu.json")
    """The JSON to write, or to go on with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each arm is trained once with each."""
    arms: tuple[str, ...] = ("two-crop", "multi-crop", "mosaic", "mosaic with jitter")
    """Which of them."""
    threads: int = 1
    """Of the network."""


def arms() -> dict[str, Recipe]:
    """Ways of composing views that differ in nothing else."""
    mosaic = photos_demo()
    first, second, tiles = mosaic.views
    assert isinstance(tiles, Mosaic)
    small = Crop(size=tiles.tile_size, scale=tiles.scale, count=tiles.tiles, augmentation=tiles.augmentation)
    return {
        "two-crop": replace(mosaic, views=(first, second)),
        "multi-crop": replace(mosaic, views=(first, second, small)),
        "mosaic": mosaic,
        "mosaic with jitter": replace(mosaic, views=(first, second, replace(tiles, max_shift=10))),
    }


def main() -> None:
    given = tyro.cli(Arguments)
    torch.set_num_threads(given.threads)
    for seed, arm in ((seed, arm) for seed in given.seeds for arm in given.arms):
        if f"{arm}/{seed}" not in _read(given.out)["runs"]:
            scores = _run(replace(arms()[arm], seed=seed))
            content = _read(given.out)  # again: another process may have written meanwhile
            content["runs"][f"{arm}/{seed}"] = scores
            content["means"] = dict(_summary(content["runs"]))
            with atomic(given.out) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    return {"machine": machine(), "images": "photos", "epochs": photos_demo().epochs, "runs": {}}


def _run(recipe: Recipe) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        encoder = api.pretrain("photos", folder, recipe, engine=Engine(logger="none", score_every=-1))
    train, test = (api.embed(encoder, "photos", split, image_size=64) for split in ("train", "test"))
    return api.evaluate_knn(train, test) | api.evaluate_linear(train, test)


def _summary(runs: dict[str, dict[str, float]]) -> Iterator[tuple[str, dict[str, float | None]]]:
    for arm in arms():
        scores = [run for name, run in runs.items() if name.startswith(f"{arm}/")]
        for score in scores[0] if scores else ():
            values = [run[score] for run in scores]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            yield f"{arm} {score}", {"mean": float(np.mean(values)), "deviation": deviation, "seeds": len(values)}


if __name__ == "__main__":
    main()
