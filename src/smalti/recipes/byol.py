"""BYOL and MosRep on it: the published ImageNet settings, and small ones for images of 32 px."""

from dataclasses import replace

from smalti.methods.byol import BYOLConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Augmentation, Crop
from smalti.views.mosaic import Mosaic

# BYOL's appendix B, Table 6: the query view is always blurred, the key view seldom, and only it is solarized.
_BYOL_QUERY = Augmentation(interpolation="bicubic", brightness_mode="shift", saturation=0.2, blur=1.0)
_BYOL_KEY = replace(_BYOL_QUERY, blur=0.1, solarize=0.2)
# The same by torchvision's usual transforms, on which the codes of MosRep and E-DIY are built.
_QUERY, _KEY = (replace(each, interpolation="bilinear", brightness_mode="factor") for each in (_BYOL_QUERY, _BYOL_KEY))
_SCALE = (0.08, 1.0)


def byol() -> Recipe:
    """Two standard views of 224 px, ResNet-50, 1000 epochs of ImageNet-1K, with the preset of the released code.

    Residual blocks begin as the identity (released code), which is timm's default.
    """
    return Recipe(
        name="byol",
        source="arXiv:2006.07733, section 3.3, appendix B and released code",
        published="linear probe on ImageNet-1K, 1000 epochs: 74.3",
        views=(
            Crop(size=224, scale=_SCALE, augmentation=_BYOL_QUERY),
            Crop(size=224, scale=_SCALE, augmentation=_BYOL_KEY),
        ),
        method=BYOLConfig(ema_momentum=0.996),
        optimizer=OptimizerConfig(
            name="lars",
            base_lr=0.2,
            momentum=0.9,
            weight_decay=1.5e-6,
            decay_norm_and_bias=False,
            warmup_epochs=10.0,
        ),
        epochs=1000,
        batch_size=4096,
    )


def byol_300() -> Recipe:
    """300 epochs, for which the paper's ablations change three settings."""
    base = byol()
    return replace(
        base,
        name="byol_300",
        source="arXiv:2006.07733, section 5 and released code",
        published="linear probe on ImageNet-1K, 300 epochs: 72.5",
        method=BYOLConfig(ema_momentum=0.99),
        optimizer=replace(base.optimizer, base_lr=0.3, weight_decay=1e-6),
        epochs=300,
    )


def byol_two_crop() -> Recipe:
    """MosRep's weak baseline: BYOL by SGD, 200 epochs of ImageNet-1K; the warm-up is BYOL's.

    MosRep minimizes negative cosines (section 2.1), half of BYOL's loss: with that its rate of 0.7 and weight decay of
    1e-6 move the weights as half and twice as much do here.
    """
    base = byol_300()
    return replace(
        base,
        name="byol_two_crop",
        source="MosRep's weak baseline on BYOL (ICLR 2023), section 3.1",
        published="",
        views=(
            Crop(size=224, scale=_SCALE, augmentation=_QUERY),
            Crop(size=224, scale=_SCALE, augmentation=_KEY),
        ),
        optimizer=replace(base.optimizer, name="sgd", base_lr=0.7 / 2, weight_decay=2 * 1e-6),
        epochs=200,
        batch_size=2048,
    )


def byol_multicrop() -> Recipe:
    """MosRep's strong baseline: four small crops of 112 px, in the place of the query and augmented as it is."""
    base = byol_two_crop()
    return replace(
        base,
        name="byol_multicrop",
        source="MosRep's strong baseline on BYOL (ICLR 2023), section 3.1",
        views=(*base.views, Crop(size=112, scale=(0.1, 0.6), count=4, augmentation=_QUERY)),
    )


def mosrep_byol() -> Recipe:
    """MosRep on BYOL: the four small crops laid out as mosaics of four images."""
    base = byol_two_crop()
    mosaic = Mosaic(tile_size=112, tiles=4, scale=(0.1, 0.6), max_shift=48, alpha=0.5, augmentation=_QUERY)
    return replace(
        base,
        name="mosrep_byol",
        source="MosRep on BYOL (ICLR 2023), sections 2 and 3",
        published="nearest neighbors on ImageNet-1K, 200 epochs: 0.8 above byol_multicrop",
        views=(*base.views, mosaic),
    )


def byol_two_crop_in100() -> Recipe:
    """The weak baseline on ImageNet-100 (`--classes imagenet100`)."""
    return _in100(byol_two_crop(), published="")


def byol_multicrop_in100() -> Recipe:
    """The strong baseline on ImageNet-100 (`--classes imagenet100`)."""
    return _in100(byol_multicrop(), published="")


def mosrep_byol_in100() -> Recipe:
    """MosRep on BYOL on ImageNet-100 (`--classes imagenet100`)."""
    return _in100(
        mosrep_byol(), published="nearest neighbors on ImageNet-100, 400 epochs: 2.0 above byol_multicrop_in100"
    )


def byol_small() -> Recipe:
    """Two views of 32 px, ResNet-18 with the CIFAR stem.

    Where BYOL's loss is 4 - 2 cos - 2 cos, lightly takes the mean of the two negative cosines. So a quarter of its
    learning rate and four times its weight decay move the weights as there. The target's momentum rises to 1 where
    lightly's stays at 0.99.
    """
    view = Crop(size=32, augmentation=Augmentation(blur=0.0))
    return Recipe(
        name="byol_small",
        source="lightly's CIFAR-10 benchmark",
        published="CIFAR-10, ResNet-18, 200 epochs, kNN: 86.8",
        views=(view, view),
        backbone=TimmBackbone(name="resnet18", stem="stride8"),
        method=BYOLConfig(
            projector=ProjectorConfig(hidden=1024, dim=256, norm=True), predictor_hidden=1024, region_size=4
        ),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, momentum=0.9, weight_decay=2e-3),
        epochs=200,
        batch_size=512,
    )


def byol_multicrop_small() -> Recipe:
    """Four crops of 16 px in addition."""
    base = byol_small()
    return replace(
        base,
        name="byol_multicrop_small",
        source="our small version of byol_multicrop",
        published="",
        views=(*base.views, Crop(size=16, scale=(0.1, 0.6), count=4, augmentation=Augmentation(blur=0.0))),
    )


def mosrep_byol_small() -> Recipe:
    """The four crops of 16 px as mosaics of 32 px."""
    base = byol_small()
    mosaic = Mosaic(tile_size=16, tiles=4, scale=(0.1, 0.6), max_shift=7, augmentation=Augmentation(blur=0.0))
    return replace(
        base,
        name="mosrep_byol_small",
        source="our small version of mosrep_byol",
        published="",
        views=(*base.views, mosaic),
    )


def _in100(recipe: Recipe, published: str) -> Recipe:
    return replace(recipe, name=f"{recipe.name}_in100", published=published, epochs=400, batch_size=512)
