"""The papers' claim as far as two cores reach: one small network, one budget for every arm, three seeds.

    python -m benchmarks.quality_cpu --out results/quality_cpu.json
    python -m benchmarks.quality_cpu --out results/quality_cifar10_cpu.json --cifar10 DIR

The first trains on the embedded photographs; the second on the first thousand images of each class of CIFAR-10, tested
on its whole test part. Last epoch, kNN and linear, every run kept.
"""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import tyro

from benchmarks.figures import machine
from benchmarks.seeds import score_all
from smalti import api
from smalti.methods.moco import MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.recipes.moco_small import mosrep_moco_small
from smalti.recipes.photos import photos_demo
from smalti.training.fit import Engine
from smalti.training.recipe import Recipe
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic

IMAGES_OF_A_CLASS = 1000


@dataclass
class Arguments:
    out: Path = Path("results/quality_cpu.json")
    """The JSON to write, or to go on with."""
    cifar10: Path | None = None
    """CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg; the photographs where it is not given."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each arm is trained once with each."""
    arms: tuple[str, ...] = ("two-crop", "multi-crop", "mosaic", "mosaic with jitter")
    """Which of them."""
    epochs: int = 0
    """Of each run; 0 for the setting's own."""
    threads: int = 1
    """Of the network."""


@dataclass(frozen=True)
class Setting:
    """What the arms are compared on."""

    name: str
    data: Path | str
    mosaic: Recipe
    max_shift: int
    image_size: int
    """Of the scored images, pixels."""

    def arms(self) -> dict[str, Recipe]:
        """Ways of composing views that differ in nothing else."""
        first, second, tiles = self.mosaic.views
        assert isinstance(tiles, Mosaic)
        tiles = replace(tiles, max_shift=0)
        small = Crop(size=tiles.tile_size, scale=tiles.scale, count=tiles.tiles, augmentation=tiles.augmentation)
        jittered = replace(tiles, max_shift=self.max_shift)
        further = {"two-crop": (), "multi-crop": (small,), "mosaic": (tiles,), "mosaic with jitter": (jittered,)}
        return {arm: replace(self.mosaic, views=(first, second, *views)) for arm, views in further.items()}


def photos() -> Setting:
    return Setting("photos", "photos", photos_demo(), max_shift=10, image_size=64)


def cifar10(folder: Path, workplace: Path) -> Setting:
    """A narrow ResNet-10 that sees ten thousand images eight times: some twelve hundred steps of 64."""
    link_images(folder, workplace, IMAGES_OF_A_CLASS)
    published = mosrep_moco_small()
    recipe = replace(
        published,
        backbone=narrow_resnet(),
        method=MoCoConfig(
            projector=ProjectorConfig(kind="conv", dim=128),
            ema_momentum=0.99,
            queue=4096,
            temperature=0.2,
            shuffle_bn_group=64,
            region_size=4,
        ),
        optimizer=replace(published.optimizer, base_lr=0.25, weight_decay=1e-4, warmup_epochs=1.0),
        epochs=8,
        batch_size=64,
    )
    return Setting("CIFAR-10, 1000 images a class", workplace, recipe, max_shift=7, image_size=32)


def narrow_resnet(channels: tuple[int, ...] = (24, 48, 96, 192)) -> TimmBackbone:
    """A ResNet-10 with the CIFAR stem and few channels."""
    options = {"layers": [1, 1, 1, 1], "channels": list(channels)}
    return TimmBackbone(name="resnet18", stem="stride8", options=options)


def link_images(folder: Path, workplace: Path, images_of_a_class: int) -> None:
    """The first training images of each class, and the whole test part, without a copy."""
    for split, count in (("train", images_of_a_class), ("test", None)):
        for class_folder in sorted((folder / split).iterdir()):
            target = workplace / split / class_folder.name
            target.mkdir(parents=True)
            for image in islice(sorted(class_folder.iterdir()), count):
                (target / image.name).symlink_to(image.resolve())


def main() -> None:
    given = tyro.cli(Arguments)
    torch.set_num_threads(given.threads)
    with TemporaryDirectory() as workplace:
        setting = cifar10(given.cifar10, Path(workplace)) if given.cifar10 else photos()
        if given.epochs:
            setting = replace(setting, mosaic=replace(setting.mosaic, epochs=given.epochs))
        about = {"machine": machine(), "images": setting.name, "epochs": setting.mosaic.epochs}
        jobs = [(arm, seed) for seed in given.seeds for arm in given.arms]
        score_all(given.out, about, jobs, lambda arm, seed: _run(setting, replace(setting.arms()[arm], seed=seed)))


def _run(setting: Setting, recipe: Recipe) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        encoder = api.pretrain(setting.data, folder, recipe, engine=Engine(logger="none", score_every=-1, workers=0))
    train, test = (
        api.embed(encoder, setting.data, split, image_size=setting.image_size) for split in ("train", "test")
    )
    return api.evaluate_knn(train, test) | api.evaluate_linear(train, test)


if __name__ == "__main__":
    main()
