"""MCL's recipes hold to the paper's section 4.1 and the released configuration."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import make_rng

from smalti.methods.mcl import MCLConfig
from smalti.methods.supervised import SupervisedConfig
from smalti.recipes import get_recipe
from smalti.recipes import mcl as module
from smalti.views.loader import BatchOrder
from smalti.views.montage import Montage

NAMES = [name for name in dir(module) if name.startswith(("mcl", "supervised"))]


@pytest.mark.parametrize("name", NAMES)
def test_its_batch_makes_whole_montages(name: str) -> None:
    recipe = get_recipe(name)
    order = BatchOrder(num_images=recipe.batch_size, batch_size=recipe.micro_batch, seed=0, block=recipe.block_size)
    for view in recipe.views:
        view.check_block(order.block_size)


def test_mcl_has_the_released_views() -> None:
    recipe = get_recipe("mcl")
    assert [view.level for view in recipe.views] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [view.canvas_size for view in recipe.views] == [224] * 8
    assert {view.shrink for view in recipe.views[2:]} == {"nearest"}  # Algorithm 1
    for side in (0, 1):  # BYOL's two augmentations, one a side
        (augmentation,) = {view.augmentation for view in recipe.views[side::2]}
        assert (augmentation.blur, augmentation.solarize) == [(1.0, 0.0), (0.1, 0.2)][side]
        assert (augmentation.jitter, augmentation.gray) == (0.8, 0.2)
        jitter = augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue
        assert jitter == (0.4, 0.4, 0.2, 0.1)
    assert {view.scale for view in recipe.views} == {(0.08, 1.0)}  # the text; released code: (0.2, 1)
    sizes, rng = np.tile([300, 300], (64, 1)), make_rng(64, 32)
    assert [len(view.plan(sizes, rng).slots) * 32 // 64 for view in recipe.views[::2]] == [32, 8, 2, 1]


def test_mcl_has_the_published_settings() -> None:
    recipe = get_recipe("mcl")
    assert recipe.method == MCLConfig(
        level_weights=(1 / 2, 1 / 4, 1 / 8, 1 / 8),
        matching="largest",
        temperature=1.0,
        ema_momentum=0.99,
        fpn=True,
        channels=256,
        hidden=2048,
        dim=256,
        region_size=7,
        head_reads_all=True,
    )
    assert not get_recipe("mcl_small").method.head_reads_all
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.base_lr, optimizer.weight_decay) == ("lars", 1.0, 1e-5)
    assert (optimizer.momentum, optimizer.decay_norm_and_bias) == (0.9, False)
    assert (optimizer.warmup_epochs, optimizer.final_lr, optimizer.clip_norm) == (10, 1e-4, 500)
    assert (recipe.batch_size, recipe.epochs, recipe.backbone.name) == (4096, 100, "resnet50")


def test_its_variants_differ_in_what_their_names_say() -> None:
    base = get_recipe("mcl")
    said = {"source": "", "published": "", "name": ""}
    for name, changes in {
        "mcl_200": {"epochs": 200},
        "mcl_400": {"epochs": 400},
        "mcl_coco": {"epochs": 530},
        "mcl_without_fpn": {"method": MCLConfig(fpn=False)},
    }.items():
        assert replace(get_recipe(name), **said) == replace(base, **said, **changes)


def test_supervised_montages_are_read_at_their_levels_and_the_plain_classifier_is_plain() -> None:
    for name, epochs, levels in (
        ("supervised_montage_r50", 100, 4),
        ("supervised_montage_swin_t", 300, 4),
        ("supervised_montage_small", 200, 3),
    ):
        recipe = get_recipe(name)
        assert isinstance(recipe.method, SupervisedConfig)
        assert (recipe.epochs, recipe.method.fpn, recipe.method.levels) == (epochs, True, levels)
        assert [view.level for view in recipe.views] == list(range(levels))
        assert all(isinstance(view, Montage) for view in recipe.views[1:])
    plain = get_recipe("supervised_small")
    assert plain.method == SupervisedConfig(region_size=4)
    assert len(plain.views) == 1
