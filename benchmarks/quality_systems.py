"""Every system beside its own baseline on CIFAR-10, as far as two cores reach: one network, one budget for all.

    python -m benchmarks.quality_systems --cifar10 DIR

The small recipes on a narrow ResNet-10, all with the same short schedule; mosaics are not jittered, which costs more
than it gives on maps of 4 x 4 cells.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro

from benchmarks import class_means
from benchmarks.figures import machine
from benchmarks.quality_cpu import link_images, narrow_resnet
from benchmarks.seeds import score_all
from smalti import api
from smalti.images.catalog import open_source
from smalti.images.statistics import measure
from smalti.methods.affinity import AffinityConfig
from smalti.methods.byol import BYOLConfig
from smalti.methods.dino import DINOConfig
from smalti.methods.ediy import EDIYConfig
from smalti.methods.mcl import MCLConfig
from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.encoder import Encoder, EncoderInfo
from smalti.models.split import SplitBackbone
from smalti.recipes import get_recipe
from smalti.runs import RunFolder
from smalti.training.fit import Engine
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.mosaic import Mosaic

IMAGES_OF_A_CLASS = 500
EPOCHS, BATCH = 8, 64
BASELINES = {
    "moco_v2_small": ("moco_v2_multicrop_small", "mosrep_moco_small", "mixture_moco_small", "unmix_moco_small"),
    "byol_small": (
        *("byol_multicrop_small", "mosrep_byol_small", "ediy_small", "ediy_small, local predictor"),
        *("ediy_small, invariance alone", "ediy_small, invariance alone, local predictor"),
    ),
    "dino_multicrop_small": ("mosrep_dino_small",),
    "cmc_small": ("mixture_cmc_small",),
    "mcl_small, level 0 alone": ("mcl_small",),
    "supervised_small": ("supervised_montage_small", "affinity_small"),  # the last is taught by the first
}
VARIANTS: dict[str, dict[str, Any]] = {
    "invariance alone": {"diversity": 0.0, "byol": 0.0},
    "local predictor": {"local_predictor": True},
    "level 0 alone": {"level_weights": (1.0,)},
}
UNTRAINED = "random weights"


@dataclass
class Arguments:
    cifar10: Path
    """CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg."""
    out: Path = Path("results/quality_systems_cpu.json")
    """The JSON to write, or to go on with."""
    systems: tuple[str, ...] = (UNTRAINED, *(name for first, others in BASELINES.items() for name in (first, *others)))
    """Which of them, in which order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each system is trained once with each."""
    threads: int = 1
    """Of the network."""


def system(name: str) -> Recipe:
    """A small recipe on the common network and schedule."""
    name, *variants = name.split(", ")
    recipe = get_recipe(name)
    method: Any = recipe.method
    for variant in variants:
        method = replace(method, **VARIANTS[variant])
    if "level 0 alone" in variants:
        recipe = replace(recipe, views=recipe.views[:2], method=method)
    if isinstance(method, MCLConfig):
        method = replace(method, channels=32, hidden=256)
    if isinstance(method, DINOConfig):  # the recipe's own head barely learns in this time
        method = replace(
            method, head=replace(method.head, hidden=512, outputs=1024, norm=True), teacher_temperature=0.04
        )
    # A run of some hundred steps needs targets that follow within tens of them.
    faster = {"ema_momentum": 0.98, "shuffle_bn_group": 64, "warmup_epochs": 1.0, "teacher_warmup_epochs": 2}
    known = {field.name for field in fields(method)}
    method = replace(method, **{key: value for key, value in faster.items() if key in known})
    optimizer = OptimizerConfig(name="sgd", base_lr=0.25, momentum=0.9, weight_decay=1e-4, warmup_epochs=1.0)
    if isinstance(method, BYOLConfig | EDIYConfig):  # the loss has 2 cos where the rate is one for cos
        optimizer = replace(optimizer, base_lr=optimizer.base_lr / 2, weight_decay=2 * optimizer.weight_decay)
    if recipe.optimizer.name == "adamw":
        optimizer = replace(recipe.optimizer, base_lr=0.002, warmup_epochs=1.0)
    return replace(
        recipe,
        views=tuple(replace(view, max_shift=0) if isinstance(view, Mosaic) else view for view in recipe.views),
        backbone=_narrow(recipe.backbone),
        method=method,
        optimizer=optimizer,
        epochs=EPOCHS,
        batch_size=BATCH,
    )


def _narrow(backbone: BackboneConfig) -> BackboneConfig:
    """The comparison's ResNet-10, of which CMC has two of half the width."""
    if isinstance(backbone, SplitBackbone):
        return replace(backbone, half=narrow_resnet((12, 24, 48, 96)))
    return narrow_resnet()


def main() -> None:
    given = tyro.cli(Arguments)
    torch.set_num_threads(given.threads)
    about = {
        "machine": machine(),
        "images": f"CIFAR-10, {IMAGES_OF_A_CLASS} images a class",
        "epochs": EPOCHS,
        "baselines": BASELINES,
    }
    with TemporaryDirectory() as workplace:
        link_images(given.cifar10, Path(workplace), IMAGES_OF_A_CLASS)
        jobs = [(name, seed) for seed in given.seeds for name in given.systems]
        score_all(given.out, about, jobs, partial(_score, workplace))


def _score(data: str, name: str, seed: int) -> dict[str, float]:
    return _untrained(data, seed) if name == UNTRAINED else _run(data, replace(system(name), seed=seed))


def _untrained(data: str, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    backbone = system("moco_v2_small").backbone
    info = EncoderInfo(backbone=backbone, pixels=measure(open_source(data)), image_size=32, crop_fraction=1.0)
    return _scores(Encoder(Backbone(backbone.build()), info), data)


def _scores(encoder: Encoder, data: str) -> dict[str, float]:
    train, test = (api.embed(encoder, data, split, image_size=32) for split in ("train", "test"))
    return api.evaluate_knn(train, test) | api.evaluate_linear(train, test)


def _run(data: str, recipe: Recipe) -> dict[str, float]:
    """kNN and linear accuracy, and what the last step logged: a collapse shows there."""
    with TemporaryDirectory() as folder, TemporaryDirectory() as taught:
        if isinstance(recipe.method, AffinityConfig):
            class_means.write_teacher(Path(taught), data, replace(system("supervised_small"), seed=recipe.seed))
            recipe = replace(recipe, method=replace(recipe.method, teacher=class_means.__file__))
        encoder = api.pretrain(data, folder, recipe, engine=Engine(logger="none", score_every=-1, workers=0))
        last = RunFolder(folder).metrics()[-1]
    watched = ("loss", "z_std", "cell_std", "kl", "teacher_entropy")
    logged = {f"logged {name}": last[name] for name in watched if name in last}
    return _scores(encoder, data) | logged


if __name__ == "__main__":
    main()
