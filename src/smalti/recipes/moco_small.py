"""The same three for images of 32 px: ResNet-18 with the CIFAR stem, as in the published small-scale tables.

All have MosRep's conv projector, where the published MoCo-v2 has none, so that they differ in their views alone.
"""

from dataclasses import replace

from smalti.methods.moco import MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Augmentation, Crop
from smalti.views.mosaic import Mosaic

# MoCo's CIFAR demonstration has no blur.
_SMALL = Augmentation(blur=0.0)


def moco_v2_small() -> Recipe:
    """Two views of 32 px; the settings of MoCo's CIFAR-10 demonstration, but for MosRep's conv projector."""
    return Recipe(
        name="moco_v2_small",
        source="MoCo's CIFAR-10 demonstration notebook",
        published="CIFAR-10, ResNet-18, 200 epochs, kNN: 82.6",
        views=(Crop(size=32, augmentation=_SMALL), Crop(size=32, augmentation=_SMALL)),
        backbone=TimmBackbone(name="resnet18", stem="stride8", zero_init_last=False),
        method=MoCoConfig(
            projector=ProjectorConfig(kind="conv", dim=128),
            ema_momentum=0.99,
            queue=4096,
            temperature=0.1,
            shuffle_bn_group=64,
            region_size=4,
        ),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, momentum=0.9, weight_decay=5e-4),
        epochs=200,
        batch_size=512,
    )


def moco_v2_multicrop_small() -> Recipe:
    """Four crops of 16 px in addition; nothing but the views differs from `moco_v2_small`."""
    base = moco_v2_small()
    return replace(
        base,
        name="moco_v2_multicrop_small",
        source="our small version of moco_v2_multicrop",
        published="",
        views=(*base.views, Crop(size=16, scale=(0.1, 0.6), count=4, augmentation=_SMALL)),
    )


def mosrep_moco_small() -> Recipe:
    """The four crops of 16 px as mosaics of 32 px; nothing but the views differs from `moco_v2_small`."""
    base = moco_v2_small()
    return replace(
        base,
        name="mosrep_moco_small",
        source="our small version of mosrep_moco",
        published="",
        views=(*base.views, Mosaic(tile_size=16, tiles=4, scale=(0.1, 0.6), max_shift=7, augmentation=_SMALL)),
    )
