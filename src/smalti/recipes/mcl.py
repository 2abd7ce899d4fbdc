"""MCL (arXiv:2304.02010), and supervised training on its montages: published settings, and small ones of 32 px.

Where the text is silent the settings are those of the released code: level weights, canvases a level, temperature, the
heads and how they begin, the least area of a crop (0.2, where BYOL's pipeline has 0.08), the final learning rate and
the limit on gradients.
"""

from dataclasses import replace
from typing import Literal

from smalti.methods.mcl import MCLConfig
from smalti.methods.supervised import SupervisedConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Augmentation, Crop
from smalti.views.montage import Montage

# BYOL's two (arXiv:2006.07733, appendix B).
_FIRST = Augmentation(saturation=0.2, blur=1.0)
_SECOND = replace(_FIRST, blur=0.1, solarize=0.2)
_MIRROR = Augmentation(jitter=0.0, gray=0.0, blur=0.0)  # supervised training: a crop and a flip
_SMALL = Augmentation(blur=0.0)  # at 32 px blur has no effect
# Shares of an image's area that a crop has: BYOL's, which the text follows; released code: (0.2, 1).
_AREA = (0.08, 1.0)
_BACKBONE = TimmBackbone(name="resnet50", zero_init_last=False)  # released code


def mcl() -> Recipe:
    """Levels 0 to 3 on both sides, ResNet-50 with an FPN, 100 epochs of ImageNet-1K."""
    return Recipe(
        name="mcl",
        source="arXiv:2304.02010, section 4.1 and released configuration",
        published="COCO, Mask R-CNN R50-FPN, 1x: 42.5 AP box, 38.2 mask; 2x: 43.4, 39.1; RetinaNet, 1x: 39.1",
        views=_levels(224, 4, (_FIRST, _SECOND), _AREA),
        backbone=_BACKBONE,
        method=MCLConfig(),
        optimizer=OptimizerConfig(
            name="lars",
            base_lr=1.0,
            weight_decay=1e-5,
            decay_norm_and_bias=False,
            warmup_epochs=10,
            final_lr=1e-4,
            clip_norm=500,
        ),
        epochs=100,
        batch_size=4096,
    )


def mcl_200() -> Recipe:
    """Twice as long."""
    return replace(
        mcl(),
        name="mcl_200",
        source="arXiv:2304.02010, Table 10f",
        published="COCO, RetinaNet, 1x: 39.5 AP box",
        epochs=200,
    )


def mcl_400() -> Recipe:
    """Four times as long."""
    return replace(
        mcl(),
        name="mcl_400",
        source="arXiv:2304.02010, section 4.3, training epochs",
        published="COCO, RetinaNet, 1x: 39.9 AP box (0.4 above 200 epochs)",
        epochs=400,
    )


def mcl_coco() -> Recipe:
    """On the 241 thousand images of COCO, train and unlabeled: as many steps as on ImageNet."""
    return replace(
        mcl(),
        name="mcl_coco",
        source="arXiv:2304.02010, section 4.1 and Table 1",
        published="COCO, Mask R-CNN R50-FPN, 1x: 41.8 AP box, 37.7 mask",
        epochs=530,
    )


def mcl_without_fpn() -> Recipe:
    """The last map resized to every level, for detectors without a pyramid."""
    return replace(
        mcl(),
        name="mcl_without_fpn",
        source="arXiv:2304.02010, section 3.2",
        published="",
        method=MCLConfig(fpn=False),
    )


def supervised_montage_r50() -> Recipe:
    """Each image of the montages classified, ResNet-50 with an FPN, 100 epochs of ImageNet-1K.

    In the paper all but the views is as in standard supervised training, whose settings it does not print: these are
    those of arXiv:1706.02677, where residual blocks begin as the identity, with a cosine in place of its steps.
    """
    return Recipe(
        name="supervised_montage_r50",
        source="arXiv:2304.02010, section 4.2 and Table 7",
        published="COCO, Mask R-CNN R50-FPN, 1x: +3.2 AP box, +2.4 mask over supervised training",
        views=_levels(224, 4, (_MIRROR,), _AREA),
        backbone=TimmBackbone(name="resnet50", zero_init_last=True),
        method=SupervisedConfig(fpn=True, levels=4),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.1, momentum=0.9, weight_decay=1e-4, warmup_epochs=5),
        epochs=100,
        batch_size=1024,
    )


def supervised_montage_swin_t() -> Recipe:
    """The same with Swin-T, 300 epochs, by the settings of arXiv:2103.14030.

    Of its augmentations only the crop and the flip are here: mixed labels, RandAugment and erasing are not.
    """
    return replace(
        supervised_montage_r50(),
        name="supervised_montage_swin_t",
        published="COCO, Mask R-CNN Swin-T, 1x: +0.8 AP box, +0.7 mask over supervised training",
        backbone=TimmBackbone(name="swin_tiny_patch4_window7_224", options={"drop_path_rate": 0.2}),
        method=SupervisedConfig(fpn=True, levels=4, label_smoothing=0.1),
        optimizer=OptimizerConfig(
            name="adamw",
            base_lr=2.5e-4,
            weight_decay=0.05,
            decay_norm_and_bias=False,
            warmup_epochs=20,
            final_lr=1e-5,
            clip_norm=5.0,
        ),
        epochs=300,
    )


def mcl_small() -> Recipe:
    """Levels 0 to 2 of 32 px: tiles of 16 and 8 px, each with as many cells on its map as a view has.

    Of 32 px hardly anything is left where three rows of four are left out, so tiles are antialiased.
    The dense head reads each canvas at its own level only, which costs less than the released code's way.
    """
    return Recipe(
        name="mcl_small",
        source="our small version of mcl",
        views=_levels(32, 3, (_SMALL, _SMALL), _AREA, "area"),
        backbone=TimmBackbone(name="resnet18", stem="stride8", zero_init_last=False),
        method=MCLConfig(
            level_weights=(1 / 2, 1 / 4, 1 / 4),
            channels=128,
            hidden=512,
            dim=128,
            region_size=4,
            head_reads_all=False,
        ),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, momentum=0.9, weight_decay=5e-4),
        epochs=200,
        batch_size=512,
    )


def supervised_small() -> Recipe:
    """A plain classifier of images of 32 px."""
    return Recipe(
        name="supervised_small",
        source="our baseline with labels",
        views=(Crop(size=32, augmentation=_MIRROR),),
        backbone=TimmBackbone(name="resnet18", stem="stride8", zero_init_last=True),
        method=SupervisedConfig(region_size=4),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.05, momentum=0.9, weight_decay=5e-4, warmup_epochs=5),
        epochs=200,
        batch_size=512,
    )


def supervised_montage_small() -> Recipe:
    """The same with montages of levels 1 and 2."""
    return replace(
        supervised_small(),
        name="supervised_montage_small",
        source="our small version of supervised_montage_r50",
        views=_levels(32, 3, (_MIRROR,), _AREA, "area"),
        method=SupervisedConfig(fpn=True, levels=3, channels=128, region_size=4),
    )


def _levels(
    size: int,
    levels: int,
    sides: tuple[Augmentation, ...],
    area: tuple[float, float],
    shrink: Literal["nearest", "area"] = "nearest",
) -> tuple[Crop | Montage, ...]:
    """A view of every level and side, level by level.

    On level 3 every image appears twice, so that B images make B, B/4, B/16 and B/32 canvases (released code).
    """
    whole = tuple(Crop(size=size, scale=area, augmentation=side) for side in sides)
    montages = tuple(
        Montage(size=size, level=level, repeats=2 if level == 3 else 1, scale=area, shrink=shrink, augmentation=side)
        for level in range(1, levels)
        for side in sides
    )
    return whole + montages
