"""Every recipe builds, says where it comes from, and holds to the figures that its name stands for."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny_teacher

from smalti.errors import UserError
from smalti.methods.affinity import AffinityConfig
from smalti.recipes import all_recipes, get_recipe
from smalti.training.optim import scale_learning_rate
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.crops import Crop
from smalti.views.loader import BatchOrder
from smalti.views.mixture import Mixture, UnMix
from smalti.views.mosaic import Mosaic

RECIPES = all_recipes()


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_every_recipe_builds_and_says_where_it_comes_from(make: Callable[[], Recipe]) -> None:
    from helpers import EIGHT_BIT

    recipe = make()
    assert recipe.name == make.__name__
    assert recipe.source
    order = BatchOrder(num_images=recipe.batch_size, batch_size=recipe.micro_batch, seed=0, block=recipe.block_size)
    for view in recipe.views:
        view.check_block(order.block_size)
    if isinstance(recipe.method, AffinityConfig):
        recipe = replace(recipe, method=replace(recipe.method, teacher=tiny_teacher.__file__))
    TrainState.begin(recipe, EIGHT_BIT.normalize, order.steps_per_epoch, class_names=("cat", "dog"), num_images=512)


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_every_recipe_takes_another_size(make: Callable[[], Recipe]) -> None:
    recipe = make()
    twice = recipe.resized(2 * recipe.image_size)
    assert [view.canvas_size for view in twice.views] == [2 * view.canvas_size for view in recipe.views]
    assert replace(twice, views=recipe.views) == recipe


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_every_recipe_is_written_whole_as_json(make: Callable[[], Recipe]) -> None:
    recipe = make()
    written = json.loads(recipe.to_json())
    assert [view["class"] for view in written["views"]] == [type(view).__name__ for view in recipe.views]
    assert written["optimizer"]["base_lr"] == recipe.optimizer.base_lr
    assert written["method"]["class"] == type(recipe.method).__name__
    assert written["batch_size"] == recipe.batch_size


def test_mosrep_is_its_strong_baseline_with_the_small_crops_on_mosaics() -> None:
    """Section 3 of the paper and its released script."""
    strong, mosrep = get_recipe("moco_v2_multicrop"), get_recipe("mosrep_moco")
    assert mosrep.views[:2] == strong.views[:2] == (Crop(size=224), Crop(size=224))
    crops, mosaic = strong.views[2], mosrep.views[2]
    assert isinstance(crops, Crop)
    assert isinstance(mosaic, Mosaic)
    assert (crops.size, crops.count, crops.scale) == (mosaic.tile_size, mosaic.tiles, mosaic.scale)
    assert (mosaic.max_shift, mosaic.alpha, mosaic.canvas_size) == (48, 0.5, 224)
    assert (strong.optimizer, strong.epochs) == (mosrep.optimizer, mosrep.epochs)
    assert replace(mosrep.method, projector=strong.method.projector) == strong.method
    method = mosrep.method
    assert (method.queue, method.ema_momentum, method.temperature, method.projector.dim) == (65536, 0.999, 0.2, 128)
    assert (mosrep.optimizer.base_lr, mosrep.batch_size, mosrep.epochs) == (0.03, 256, 200)


@pytest.mark.parametrize(
    "recipes",
    [
        ("moco_v2", "moco_v2_multicrop"),
        ("moco_v2_in100", "moco_v2_multicrop_in100"),
        ("moco_v2_small", "moco_v2_multicrop_small", "mosrep_moco_small", "mixture_moco_small"),
        ("byol_two_crop", "byol_multicrop", "mosrep_byol"),
        ("byol_two_crop_in100", "byol_multicrop_in100", "mosrep_byol_in100"),
        ("byol_small", "byol_multicrop_small", "mosrep_byol_small"),
        ("mixture_moco_in100_baseline", "mixture_moco_in100"),
        ("mixture_cmc_in100_baseline", "mixture_cmc_in100"),
    ],
)
def test_a_system_and_its_baselines_differ_by_their_views_alone(recipes: tuple[str, ...]) -> None:
    names = ("name", "source", "published", "views")
    plain, *others = map(get_recipe, recipes)
    for other in others:
        assert replace(other, **{name: getattr(plain, name) for name in names}) == plain


def test_the_conv_projector_is_mosreps_alone() -> None:
    """Of ResNet-50's 2048 channels MoCo-v2's projector makes 128 by 4.5 million weights, without a convolution."""
    for name in ("moco_v2", "moco_v2_multicrop", "moco_v2_in100", "moco_v2_multicrop_in100"):
        projector = get_recipe(name).method.projector
        assert projector.kind == "mlp"
        assert sum(parameter.numel() for parameter in projector.build(2048).parameters()) == 4_458_624
    for name in ("mosrep_moco", "mosrep_moco_in100"):
        assert get_recipe(name).method.projector.kind == "conv"


@pytest.mark.parametrize(
    ("as_identity", "names"),
    [
        (True, ("byol", "mosrep_byol", "ediy", "byol_small", "ediy_small")),
        (True, ("supervised_montage_r50", "supervised_small")),
        (False, ("moco_v2", "moco_v2_in100", "mosrep_moco", "mosrep_moco_in100", "unmix_moco")),
        (False, ("moco_v2_small", "mosrep_moco_small", "mixture_moco", "mixture_moco_in100", "mixture_moco_w2x")),
        (False, ("mixture_cmc_in100", "cmc", "cmc_small", "unmix_cifar10", "unmix_moco_small", "mcl", "mcl_small")),
    ],
)
def test_residual_blocks_begin_as_in_the_released_codes(as_identity: bool, names: tuple[str, ...]) -> None:
    for name in names:
        blocks = [module for module in get_recipe(name).backbone.build().modules() if hasattr(module, "zero_init_last")]
        assert blocks
        last = [getattr(block, "bn3" if hasattr(block, "bn3") else "bn2").weight for block in blocks]
        assert all(bool((weight == (0 if as_identity else 1)).all()) for weight in last), name


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"accumulate": 3}, "a batch of 256 in 3 parts"),
        ({"seed": -1}, "seed -1"),
        ({"views": (Crop(),)}, "views Crop"),
        ({"views": (Crop(), Mosaic())}, "views Crop, Mosaic"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(get_recipe("moco_v2"), **wrong)


@pytest.mark.parametrize(
    ("name", "rate", "decay", "momentum", "epochs", "batch", "parts"),
    [
        ("byol", 3.2, 1.5e-6, 0.996, 1000, 4096, 1),
        ("byol_300", 4.8, 1e-6, 0.99, 300, 4096, 1),
        # MosRep's 5.6, 1.4 and 1e-6 are for half of the loss.
        ("byol_two_crop", 2.8, 2e-6, 0.99, 200, 2048, 1),
        ("mosrep_byol", 2.8, 2e-6, 0.99, 200, 2048, 1),
        ("mosrep_byol_in100", 0.7, 2e-6, 0.99, 400, 512, 1),
        ("ediy", 3.2, 1.5e-6, 0.996, 1000, 4096, 2),
        ("ediy_300", 3.2, 1e-6, 0.99, 300, 4096, 2),
        ("ediy_100", 3.2, 1e-6, 0.99, 100, 4096, 2),
    ],
)
def test_byol_and_what_stands_on_it_have_the_published_settings(
    name: str, rate: float, decay: float, momentum: float, epochs: int, batch: int, parts: int
) -> None:
    recipe = get_recipe(name)
    assert scale_learning_rate(recipe.optimizer.base_lr, recipe.batch_size) == pytest.approx(rate)
    assert (recipe.optimizer.weight_decay, recipe.method.ema_momentum, recipe.epochs) == (decay, momentum, epochs)
    assert (recipe.batch_size, recipe.accumulate, recipe.optimizer.warmup_epochs) == (batch, parts, 10)
    assert recipe.optimizer.name == ("sgd" if "crop" in name or "mosrep" in name else "lars")
    query, key = (view.augmentation for view in recipe.views[:2])
    assert (query.blur, query.solarize, key.blur, key.solarize) == (1.0, 0.0, 0.1, 0.2)
    assert query.jitter == key.jitter == 0.8
    assert (query.brightness, query.contrast, query.saturation, query.hue) == (0.4, 0.4, 0.2, 0.1)
    of_byol = name in ("byol", "byol_300")  # MosRep and E-DIY use torchvision's usual transforms
    assert {each.interpolation for each in (query, key)} == {"bicubic" if of_byol else "bilinear"}
    assert {each.brightness_mode for each in (query, key)} == {"shift" if of_byol else "factor"}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("mixture") and "baseline" not in name])
def test_published_mixtures_are_those_of_the_released_code(name: str) -> None:
    released = not name.endswith("_small")
    for view in get_recipe(name).views:
        assert isinstance(view, Mixture)
        assert (view.own_first, view.each_partner) == (released, released)


def test_unmix_draws_once_a_batch_and_normalizes_by_the_means_of_cifar() -> None:
    """Its released scripts; that of CIFAR-100 has CIFAR-10's means too."""
    names = [name for name in RECIPES if name.startswith("unmix") and not name.endswith("_small")]
    for name in names:
        recipe = get_recipe(name)
        of_cifar = "cifar" in name
        expected = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)) if of_cifar else ((), ())
        assert (recipe.mean, recipe.std) == expected
        assert all(view.per_batch for view in recipe.views if isinstance(view, UnMix))
    assert sum(isinstance(view, UnMix) for name in names for view in get_recipe(name).views) == 6


def test_unmix_on_imagenet_is_moco_v2_with_one_more_view() -> None:
    baseline, mixed = get_recipe("unmix_moco_baseline"), get_recipe("unmix_moco")
    assert replace(mixed, name=baseline.name, published=baseline.published, views=baseline.views) == baseline
    assert mixed.views == (Crop(), Crop(), UnMix(per_batch=True))
    method = mixed.method
    assert (method.queue, method.ema_momentum, method.temperature, method.projector.kind) == (65536, 0.999, 0.2, "mlp")
    assert not method.batch_negatives
    assert (mixed.optimizer.base_lr, mixed.batch_size, mixed.epochs) == (0.03, 256, 200)


def test_a_recipes_mean_takes_the_place_of_what_is_measured() -> None:
    from helpers import EIGHT_BIT

    recipe = get_recipe("unmix_cifar10")
    assert recipe.pixels(EIGHT_BIT) == replace(EIGHT_BIT, mean=recipe.mean, std=recipe.std)
    assert get_recipe("moco_v2").pixels(EIGHT_BIT) == EIGHT_BIT
    with pytest.raises(UserError, match="for images of 1"):
        recipe.pixels(replace(EIGHT_BIT, mean=(0.5,), std=(0.2,)))
    with pytest.raises(UserError, match="one of each a channel"):
        replace(recipe, std=())


@pytest.mark.parametrize(
    ("name", "space", "scale", "negatives", "epochs", "drops"),
    [
        ("cmc", "lab", (0.08, 1.0), 16384, 240, (120, 160, 200)),
        ("mixture_cmc_in100_baseline", "ycbcr", (0.2, 1.0), 16384, 800, (400, 533, 667)),
        ("mixture_cmc_in100_baseline_240", "ycbcr", (0.2, 1.0), 4096, 240, (120, 160, 200)),
        ("mixture_cmc_in100", "ycbcr", (0.2, 1.0), 16384, 800, (400, 533, 667)),
    ],
)
def test_cmc_has_the_settings_of_its_released_code(
    name: str, space: str, scale: tuple[float, float], negatives: int, epochs: int, drops: tuple[int, ...]
) -> None:
    recipe = get_recipe(name)
    method, optimizer, (view,) = recipe.method, recipe.optimizer, recipe.views
    assert scale_learning_rate(optimizer.base_lr, recipe.batch_size) == 0.03
    assert (recipe.batch_size, recipe.epochs, optimizer.drops) == (128, epochs, drops)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert (method.negatives, method.num_negatives) == ("bank", negatives)
    assert (method.bank_momentum, method.temperature) == (0.5, 0.07)
    assert (method.projector.kind, method.projector.dim) == ("linear", 128)
    assert (recipe.backbone.color_space, recipe.backbone.half.width) == (space, 0.5)
    assert view.scale == scale
