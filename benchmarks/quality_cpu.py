"""The papers' claim as far as two cores reach: a narrow network, the same images and steps for each way of composing.

    python -m benchmarks.quality_cpu --data FOLDER --epochs 8 --out results/quality_cpu.json

Last epoch, kNN and linear, every seed kept; written after every run, and runs that are there are not made again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tyro

from benchmarks.figures import machine
from smalti import api
from smalti.files import atomic
from smalti.models.backbone import BackboneConfig
from smalti.recipes import get_recipe
from smalti.training.fit import Engine
from smalti.training.recipe import Recipe

ARMS = ("moco_v2_small", "moco_v2_multicrop_small", "mosrep_moco_small")


@dataclass
class Arguments:
    data: str
    """Labelled images with a train and a test part, 32 px."""
    out: Path
    """The JSON to write, or to go on with."""
    about: str
    """What the images are, kept with the results."""
    epochs: int = 8
    """Of every run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each arm is trained once with each."""
    threads: int = 1
    """Of the network."""


def small(name: str, epochs: int, seed: int) -> Recipe:
    """An arm's recipe with a ResNet-10 of 16 to 128 channels and settings for a run of some hundred steps."""
    recipe = get_recipe(name)
    return replace(
        recipe,
        backbone=BackboneConfig(
            name="resnet18", stem="stride8", options={"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}
        ),
        method=replace(recipe.method, momentum=0.98, queue=2048, temperature=0.2, norm_group=32, region_size=2),
        optimiser=replace(recipe.optimiser, base_lr=0.24, weight_decay=1e-4, warmup_epochs=0.5),
        epochs=epochs,
        batch_size=64,
        seed=seed,
    )


def main() -> None:
    given = tyro.cli(Arguments)
    torch.set_num_threads(given.threads)
    content = json.loads(given.out.read_text()) if given.out.exists() else {"runs": {}}
    content |= {"hardware": machine(), "images": given.about, "epochs": given.epochs}
    for seed, arm in ((seed, arm) for seed in given.seeds for arm in ARMS):
        if f"{arm}/{seed}" not in content["runs"]:
            content["runs"][f"{arm}/{seed}"] = _run(given, arm, seed)
            content["means"] = dict(_summary(content["runs"]))
            with atomic(given.out) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")


def _run(given: Arguments, arm: str, seed: int) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        encoder = api.pretrain(
            given.data, folder, small(arm, given.epochs, seed), engine=Engine(logger="none", score_every=-1)
        )
    train, test = (api.embed(encoder, given.data, split) for split in ("train", "test"))
    return api.evaluate_knn(train, test) | api.evaluate_linear(train, test)


def _summary(runs: dict[str, dict[str, float]]) -> Iterator[tuple[str, dict[str, float]]]:
    for arm in ARMS:
        scores = [run for name, run in runs.items() if name.startswith(f"{arm}/")]
        for score in scores[0] if scores else ():
            values = [run[score] for run in scores]
            yield (
                f"{arm} {score}",
                {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=len(values) > 1))},
            )


if __name__ == "__main__":
    main()
