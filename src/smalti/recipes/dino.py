"""DINO and MosRep on it: the published ImageNet settings, and small ones for images of 32 px."""

from dataclasses import replace

from smalti.methods.dino import DINOConfig
from smalti.models.prototypes import PrototypeHeadConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Augmentation, Crop
from smalti.views.mosaic import Mosaic

# BYOL's (arXiv:2006.07733): the two standard views are blurred and solarized unlike.
_FIRST = Augmentation(interpolation="bicubic", saturation=0.2, blur=1.0)
_SECOND = replace(_FIRST, blur=0.1, solarize=0.2)
_LOCAL = replace(_FIRST, blur=0.5)
# Shares of the image's area: of standard views without local crops, of standard views with them, and of local crops.
_ALONE, _GLOBAL, _PART = (0.14, 1.0), (0.4, 1.0), (0.05, 0.4)


def dino() -> Recipe:
    """Two standard views of 224 px, with the wider range of scales that the released code advises for them alone."""
    return Recipe(
        name="dino",
        source="arXiv:2104.14294, released code's run of 300 epochs without its local crops",
        published="",
        views=(Crop(scale=_ALONE, augmentation=_FIRST), Crop(scale=_ALONE, augmentation=_SECOND)),
        backbone=TimmBackbone(name="vit_small_patch16_224", options={"drop_path_rate": 0.1}),
        method=DINOConfig(head=PrototypeHeadConfig(norm_last=False)),
        optimizer=OptimizerConfig(
            name="adamw",
            base_lr=0.0005,
            weight_decay=0.04,
            final_weight_decay=0.4,
            decay_norm_and_bias=False,
            warmup_epochs=10.0,
            final_lr=1e-6,
            clip_norm=3.0,
            clip_each=True,
        ),
        epochs=300,
        batch_size=1024,
    )


def dino_multicrop() -> Recipe:
    """Eight local crops of 96 px in addition to the standard views."""
    return replace(
        dino(),
        name="dino_multicrop",
        source="arXiv:2104.14294, released code's run of 300 epochs",
        published="ImageNet-1K, 300 epochs, linear probe: 76.1, kNN: 73.3",
        views=(
            Crop(scale=_GLOBAL, augmentation=_FIRST),
            Crop(scale=_GLOBAL, augmentation=_SECOND),
            Crop(size=96, scale=_PART, count=8, augmentation=_LOCAL),
        ),
    )


def mosrep_dino() -> Recipe:
    """MosRep on DINO: mosaics in place of the local crops.

    The text gives backbone, batch and epochs; the scales are those of DINO's crops, the jitter MosRep's on MoCo-v2.
    """
    base = dino_multicrop()
    return replace(
        base,
        name="mosrep_dino",
        source="MosRep (ICLR 2023), appendix B",
        published="",
        views=(
            *base.views[:2],
            Mosaic(tile_size=112, tiles=4, scale=_PART, max_shift=48, alpha=0.5, augmentation=_LOCAL),
        ),
        epochs=200,
    )


# At 32 px blur has no effect.
_FIRST_SMALL, _SECOND_SMALL, _LOCAL_SMALL = (replace(each, blur=0.0) for each in (_FIRST, _SECOND, _LOCAL))


def dino_small() -> Recipe:
    """Two views of 32 px and a narrow ViT that sees them as 8 x 8 tokens."""
    return replace(
        dino(),
        name="dino_small",
        source="our small version of dino",
        views=(
            Crop(size=32, scale=_ALONE, augmentation=_FIRST_SMALL),
            Crop(size=32, scale=_ALONE, augmentation=_SECOND_SMALL),
        ),
        backbone=TimmBackbone(
            name="vit_tiny_patch16_224", options={"patch_size": 4, "img_size": 32, "depth": 6, "drop_path_rate": 0.1}
        ),
        method=DINOConfig(head=PrototypeHeadConfig(hidden=1024, outputs=4096), region_size=4),
        epochs=200,
        batch_size=512,
    )


def dino_multicrop_small() -> Recipe:
    """Four local crops of 16 px in addition."""
    return replace(
        dino_small(),
        name="dino_multicrop_small",
        source="our small version of dino_multicrop",
        views=(
            Crop(size=32, scale=_GLOBAL, augmentation=_FIRST_SMALL),
            Crop(size=32, scale=_GLOBAL, augmentation=_SECOND_SMALL),
            Crop(size=16, scale=_PART, count=4, augmentation=_LOCAL_SMALL),
        ),
    )


def mosrep_dino_small() -> Recipe:
    """The four crops of 16 px as mosaics of 32 px."""
    base = dino_multicrop_small()
    return replace(
        base,
        name="mosrep_dino_small",
        source="our small version of mosrep_dino",
        views=(*base.views[:2], Mosaic(tile_size=16, tiles=4, scale=_PART, max_shift=7, augmentation=_LOCAL_SMALL)),
    )
