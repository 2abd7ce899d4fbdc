"""MoCo-v2 and MosRep on it: the published ImageNet settings.

MoCo-v2 has its own projector, Linear-ReLU-Linear on the pooled feature; the convolution before it is MosRep's alone.
For a study in which the views alone differ, give one recipe the views of the others: `--recipe mosrep_moco --views-of
moco_v2_multicrop`. Residual blocks do not begin as the identity, as in MoCo's released code; in
that of MosRep they do, in its baseline too.
"""

from dataclasses import replace

from smalti.methods.moco import MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic

_MLP = ProjectorConfig(kind="mlp", dim=128)
_CONV = ProjectorConfig(kind="conv", dim=128)


def moco_v2() -> Recipe:
    """Two standard views of 224 px, ResNet-50, 200 epochs of ImageNet-1K."""
    return Recipe(
        name="moco_v2",
        source="arXiv:2003.04297; MosRep's weak baseline (ICLR 2023, released code)",
        published="linear probe on ImageNet-1K, 200 epochs: 67.7",
        views=(Crop(size=224), Crop(size=224)),
        backbone=TimmBackbone(name="resnet50", zero_init_last=False),
        method=MoCoConfig(projector=_MLP),
        # The text has 0.3; the released script's 0.03 is MoCo-v2's own.
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, momentum=0.9, weight_decay=1e-4),
        epochs=200,
        batch_size=256,
    )


def moco_v2_multicrop() -> Recipe:
    """The strong baseline: four small crops of 112 px in addition to the standard views.

    In the text it is MoCo-v2 with more crops, and the released code does not have it; so the projector is MoCo-v2's.
    """
    base = moco_v2()
    return replace(
        base,
        name="moco_v2_multicrop",
        source="MosRep's strong baseline (ICLR 2023, section 3.1)",
        published="linear probe on ImageNet-1K, 200 epochs: 69.8",
        views=(*base.views, Crop(size=112, scale=(0.1, 0.6), count=4)),
    )


def mosrep_moco() -> Recipe:
    """MosRep on MoCo-v2: the four small crops laid out as mosaics of four images, and the conv projector."""
    base = moco_v2()
    return replace(
        base,
        name="mosrep_moco",
        source="MosRep (ICLR 2023), section 3 and released code",
        published="linear probe on ImageNet-1K, 200 epochs: 72.3",
        views=(*base.views, Mosaic(tile_size=112, tiles=4, scale=(0.1, 0.6), max_shift=48, alpha=0.5)),
        method=MoCoConfig(projector=_CONV),
    )


def moco_v2_in100() -> Recipe:
    """Two standard views, 400 epochs of ImageNet-100 (`--classes imagenet100`)."""
    return _in100(moco_v2(), _MLP)


def moco_v2_multicrop_in100() -> Recipe:
    """With four small crops, 400 epochs of ImageNet-100 (`--classes imagenet100`)."""
    return _in100(moco_v2_multicrop(), _MLP)


def mosrep_moco_in100() -> Recipe:
    """MosRep on MoCo-v2, 400 epochs of ImageNet-100 (`--classes imagenet100`)."""
    return _in100(mosrep_moco(), _CONV, "linear probe on ImageNet-100, 400 epochs: 4.8 above moco_v2_in100")


def _in100(base: Recipe, projector: ProjectorConfig, published: str = "") -> Recipe:
    method = MoCoConfig(projector=projector, queue=16384)
    return replace(base, name=f"{base.name}_in100", published=published, method=method, epochs=400)
