"""DINO's recipes hold to the published settings."""

from dataclasses import replace

import pytest

from smalti.recipes import get_recipe
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic

NAMED = ("name", "source", "published", "views")


def test_multi_crop_dino_is_the_released_run_of_300_epochs() -> None:
    recipe = get_recipe("dino_multicrop")
    method, head, optimizer = recipe.method, recipe.method.head, recipe.optimizer
    assert (recipe.backbone.name, recipe.backbone.options) == ("vit_small_patch16_224", {"drop_path_rate": 0.1})
    assert (recipe.epochs, recipe.batch_size) == (300, 1024)
    assert (optimizer.name, optimizer.base_lr, optimizer.final_lr, optimizer.warmup_epochs) == (
        "adamw", 0.0005, 1e-6, 10.0,
    )  # fmt: skip
    assert (optimizer.weight_decay, optimizer.final_weight_decay, optimizer.clip_norm) == (0.04, 0.4, 3.0)
    assert not optimizer.decay_norm_and_bias
    assert (head.hidden, head.bottleneck, head.outputs, head.norm, head.norm_last) == (2048, 256, 65536, False, False)
    assert (method.ema_momentum, method.center_momentum, method.freeze_epochs) == (0.996, 0.9, 1)
    assert (method.student_temperature, method.warmup_teacher_temperature, method.teacher_temperature) == (
        0.1, 0.04, 0.07,
    )  # fmt: skip
    assert method.teacher_warmup_epochs == 30
    first, second, local = recipe.views
    assert (first.size, second.size, local.size, local.count) == (224, 224, 96, 8)
    assert (first.scale, second.scale, local.scale) == ((0.4, 1.0), (0.4, 1.0), (0.05, 0.4))
    assert [view.augmentation.blur for view in recipe.views] == [1.0, 0.1, 0.5]
    assert [view.augmentation.solarize for view in recipe.views] == [0.0, 0.2, 0.0]
    assert [view.augmentation.interpolation for view in recipe.views] == ["bicubic"] * 3


@pytest.mark.parametrize("suffix", ["", "_small"])
def test_mosaics_stand_in_place_of_the_local_crops(suffix: str) -> None:
    strong, mosrep = get_recipe(f"dino_multicrop{suffix}"), get_recipe(f"mosrep_dino{suffix}")
    assert replace(mosrep, epochs=strong.epochs, **{name: getattr(strong, name) for name in NAMED}) == strong
    assert mosrep.views[:2] == strong.views[:2]
    crops, mosaic = strong.views[2], mosrep.views[2]
    assert isinstance(crops, Crop)
    assert isinstance(mosaic, Mosaic)
    assert (mosaic.scale, mosaic.augmentation) == (crops.scale, crops.augmentation)
    assert mosaic.canvas_size == mosrep.image_size
    assert mosrep.epochs == 200


@pytest.mark.parametrize("suffix", ["", "_small"])
def test_two_crops_are_multi_crop_without_its_local_crops(suffix: str) -> None:
    weak, strong = get_recipe(f"dino{suffix}"), get_recipe(f"dino_multicrop{suffix}")
    assert replace(weak, **{name: getattr(strong, name) for name in NAMED}) == strong
    assert len(weak.views) == 2
    assert [replace(view, scale=(0.4, 1.0)) for view in weak.views] == list(strong.views[:2])
