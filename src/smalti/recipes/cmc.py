"""CMC (arXiv:1906.05849): the settings of its released code, and small ones for images of 32 px."""

from dataclasses import replace

from smalti.methods.cmc import CMCConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.recipes.moco_small import moco_v2_small
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Augmentation, Crop

LINEAR = ProjectorConfig(kind="linear", dim=128)
HALF = TimmBackbone(name="resnet50", width=0.5, zero_init_last=False)
_SMALL_HALF = TimmBackbone(name="resnet18", stem="stride8", width=0.5, zero_init_last=False)
CROP_AND_FLIP = Augmentation(jitter=0.0, gray=0.0, blur=0.0)  # all that the released code does


def cmc() -> Recipe:
    """L and ab of ImageNet-1K, two half-width ResNet-50, softmax cross-entropy; rate 0.03 at batch 128."""
    return Recipe(
        name="cmc",
        source="CMC (arXiv:1906.05849), released code with --softmax",
        views=(Crop(scale=(0.08, 1.0), augmentation=CROP_AND_FLIP),),
        backbone=SplitBackbone(half=HALF, color_space="lab"),
        method=CMCConfig(projector=LINEAR),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.06, momentum=0.9, weight_decay=1e-4, drops=(120, 160, 200)),
        epochs=240,
        batch_size=128,
    )


def cmc_small() -> Recipe:
    """Two half-width ResNet-18 on Y and CbCr of views of 32 px, with MoCo's queue in place of the memory bank.

    A bank takes longer to begin: after 8 epochs of the photographs with narrow ResNet-10 and 1024 negatives, 1-NN was
    0.74 and 0.78 with a queue (z_std 0.97), 0.71 and 0.72 with a bank (z_std 0.14).
    """
    return replace(
        moco_v2_small(),
        name="cmc_small",
        source="our small version of CMC",
        published="",
        views=(Crop(size=32, scale=(0.08, 1.0), augmentation=CROP_AND_FLIP),),
        backbone=SplitBackbone(half=_SMALL_HALF, color_space="ycbcr"),
        method=CMCConfig(negatives="queue", num_negatives=4096, ema_momentum=0.99, temperature=0.1, region_size=4),
    )
