"""Image mixture (Shen et al. 2020, arXiv:2003.05438) and its later version Un-Mix: the published settings.

Both keep the first MoCo's single linear layer as projector, and their residual blocks do not begin as the identity
(released codes of CMC, on which image mixture builds, and of Un-Mix). Image mixture lowers the learning rate in steps,
as the codes that it builds on do; the text does not say when in runs of 800 epochs: here, at the same fractions of
them. The published linear probes have their own rates (10 and 30), on features as they are.
"""

from dataclasses import replace
from functools import partial

from smalti.methods.cmc import CMCConfig
from smalti.methods.moco import MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.recipes.cmc import CROP_AND_FLIP, HALF, LINEAR, cmc, cmc_small
from smalti.recipes.moco import moco_v2
from smalti.recipes.moco_small import moco_v2_small
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Augmentation, Crop
from smalti.views.mixture import Mixture, UnMix

_SOURCE = "Rethinking Image Mixture (arXiv:2003.05438)"
_UNMIX = "Un-Mix (AAAI 2022), released ImageNet script"
_DEMO = "Un-Mix (AAAI 2022), released CIFAR demonstration"
# MoCo's first augmentation, as in the code base of CMC on which the paper builds.
_MOCO_V1 = Augmentation(jitter=1.0, hue=0.4, blur=0.0)
_CMC_SCALE = (0.2, 1.0)  # on ImageNet-100
# The demonstration's crops; there is no blur.
_CIFAR = Augmentation(blur=0.0)
# The mean and deviation of CIFAR-10's pixels, with which the demonstration normalizes those of CIFAR-100 too.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_mixture = partial(Mixture, own_first=True, each_partner=True)  # as the released code mixes
_BACKBONE = TimmBackbone(name="resnet50", zero_init_last=False)


def mixture_moco_in100_baseline() -> Recipe:
    """MoCo on ImageNet-100 (`--classes imagenet100`), 800 epochs."""
    crop = Crop(augmentation=_MOCO_V1)
    return Recipe(
        name="mixture_moco_in100_baseline",
        source=f"{_SOURCE}, table 5",
        published="linear probe on ImageNet-100, 800 epochs: 78.2",
        views=(crop, crop),
        backbone=_BACKBONE,
        method=MoCoConfig(projector=LINEAR, ema_momentum=0.99, queue=16384, temperature=0.07),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.06, momentum=0.9, weight_decay=1e-4, drops=(400, 533, 667)),
        epochs=800,
        batch_size=128,
    )


def mixture_moco_in100_baseline_240() -> Recipe:
    """MoCo on ImageNet-100 (`--classes imagenet100`), 240 epochs."""
    base = mixture_moco_in100_baseline()
    return replace(
        base,
        name="mixture_moco_in100_baseline_240",
        published="linear probe on ImageNet-100, 240 epochs: 73.4",
        optimizer=replace(base.optimizer, drops=(120, 160, 200)),
        epochs=240,
    )


def mixture_moco_in100() -> Recipe:
    """Global and region mixture on MoCo, ImageNet-100 (`--classes imagenet100`)."""
    view = _mixture(augmentation=_MOCO_V1)
    return replace(
        mixture_moco_in100_baseline(),
        name="mixture_moco_in100",
        published="linear probe on ImageNet-100, 800 epochs: 79.8",
        views=(view, view),
    )


def mixture_moco_in100_global() -> Recipe:
    """Global mixture alone on ImageNet-100 (`--classes imagenet100`)."""
    view = _mixture(augmentation=_MOCO_V1, region_probability=0.0)
    return replace(
        mixture_moco_in100_baseline(),
        name="mixture_moco_in100_global",
        published="linear probe on ImageNet-100, 800 epochs: 79.3",
        views=(view, view),
    )


def mixture_moco_in100_region() -> Recipe:
    """Region mixture alone on ImageNet-100 (`--classes imagenet100`)."""
    view = _mixture(augmentation=_MOCO_V1, global_probability=0.0)
    return replace(
        mixture_moco_in100_baseline(),
        name="mixture_moco_in100_region",
        published="linear probe on ImageNet-100, 800 epochs: 79.5",
        views=(view, view),
    )


def mixture_moco_baseline() -> Recipe:
    """The authors' MoCo on ImageNet-1K. Crops from 8% of an image, as their code base takes them there.

    The text leaves the queue open between 16384, its baseline's, and 65536; this is the first.
    """
    crop = Crop(scale=(0.08, 1.0), augmentation=_MOCO_V1)
    return Recipe(
        name="mixture_moco_baseline",
        source=f"{_SOURCE}, table 6",
        published="linear probe on ImageNet-1K, 200 epochs: 59.5",
        views=(crop, crop),
        backbone=_BACKBONE,
        method=MoCoConfig(projector=LINEAR, ema_momentum=0.999, queue=16384, temperature=0.07),
        optimizer=OptimizerConfig(name="sgd", base_lr=0.03, momentum=0.9, weight_decay=1e-4, drops=(120, 160)),
        epochs=200,
        batch_size=256,
    )


def mixture_moco() -> Recipe:
    """Global and region mixture on ImageNet-1K, with the settings found on ImageNet-100."""
    view = _mixture(scale=(0.08, 1.0), augmentation=_MOCO_V1)
    return replace(
        mixture_moco_baseline(),
        name="mixture_moco",
        published="linear probe on ImageNet-1K, 200 epochs: 60.8; VOC07 AP50 75.8, and 76.4 with a queue of 65536",
        views=(view, view),
    )


def mixture_moco_w2x_baseline() -> Recipe:
    """A ResNet-50 with twice the channels (94 M weights)."""
    return replace(
        mixture_moco_baseline(),
        name="mixture_moco_w2x_baseline",
        published="linear probe on ImageNet-1K, ResNet-50 w2x, 200 epochs: 64.6",
        backbone=replace(_BACKBONE, width=2.0),
    )


def mixture_moco_w2x() -> Recipe:
    """Global and region mixture with the wide ResNet-50 of `mixture_moco_w2x_baseline`."""
    return replace(
        mixture_moco(),
        name="mixture_moco_w2x",
        published="linear probe on ImageNet-1K, ResNet-50 w2x, 200 epochs: 65.9",
        backbone=mixture_moco_w2x_baseline().backbone,
    )


def mixture_moco_small() -> Recipe:
    """Global and region mixture of views of 32 px; nothing but the views differs from `moco_v2_small`."""
    view = Mixture(size=32, augmentation=_CIFAR)
    return replace(
        moco_v2_small(),
        name="mixture_moco_small",
        source="our small version of mixture_moco",
        published="",
        views=(view, view),
    )


def unmix_moco_small() -> Recipe:
    """The query's crops mixed in pairs, in addition to two views of 32 px; the projector is `moco_v2_small`'s."""
    base = moco_v2_small()
    return replace(
        base,
        name="unmix_moco_small",
        source="our small version of Un-Mix on MoCo",
        published="",
        views=(*base.views, UnMix(size=32, augmentation=_CIFAR)),
        method=MoCoConfig(
            projector=ProjectorConfig(kind="conv", dim=128),
            ema_momentum=0.99,
            queue=4096,
            temperature=0.1,
            batch_negatives=False,
            shuffle_bn_group=64,
            region_size=4,
        ),
    )


def mixture_cmc_in100_baseline() -> Recipe:
    """CMC on Y and CbCr of ImageNet-100 (`--classes imagenet100`), 800 epochs.

    Crops are from a fifth of the image on, as in CMC's code for this set.
    """
    base = cmc()
    return replace(
        base,
        name="mixture_cmc_in100_baseline",
        source=f"{_SOURCE}, table 5",
        published="linear probe on ImageNet-100, 800 epochs: 78.7",
        views=(Crop(scale=_CMC_SCALE, augmentation=CROP_AND_FLIP),),
        backbone=SplitBackbone(half=HALF, color_space="ycbcr"),
        optimizer=replace(base.optimizer, drops=(400, 533, 667)),
        epochs=800,
    )


def mixture_cmc_in100_baseline_240() -> Recipe:
    """CMC on ImageNet-100 (`--classes imagenet100`), 240 epochs and 4096 negatives, found better than 16384 there."""
    base = mixture_cmc_in100_baseline()
    return replace(
        base,
        name="mixture_cmc_in100_baseline_240",
        published="linear probe on ImageNet-100, 240 epochs: 75.7",
        method=CMCConfig(projector=LINEAR, num_negatives=4096),
        optimizer=cmc().optimizer,
        epochs=240,
    )


def mixture_cmc_in100() -> Recipe:
    """Global and region mixture on CMC, which takes little of the first; ImageNet-100 (`--classes imagenet100`)."""
    view = _mixture(scale=_CMC_SCALE, augmentation=CROP_AND_FLIP, global_probability=0.1)
    return replace(
        mixture_cmc_in100_baseline(),
        name="mixture_cmc_in100",
        published="linear probe on ImageNet-100, 800 epochs: 80.0",
        views=(view,),
    )


def mixture_cmc_in100_global() -> Recipe:
    """Global mixture alone on ImageNet-100 (`--classes imagenet100`)."""
    view = _mixture(scale=_CMC_SCALE, augmentation=CROP_AND_FLIP, global_probability=0.1, region_probability=0.0)
    return replace(
        mixture_cmc_in100_baseline(),
        name="mixture_cmc_in100_global",
        published="linear probe on ImageNet-100, 800 epochs: 79.7",
        views=(view,),
    )


def mixture_cmc_in100_region() -> Recipe:
    """Region mixture alone on ImageNet-100 (`--classes imagenet100`)."""
    view = _mixture(scale=_CMC_SCALE, augmentation=CROP_AND_FLIP, global_probability=0.0)
    return replace(
        mixture_cmc_in100_baseline(),
        name="mixture_cmc_in100_region",
        published="linear probe on ImageNet-100, 800 epochs: 79.6",
        views=(view,),
    )


def mixture_cmc_small() -> Recipe:
    """Global and region mixture on `cmc_small`."""
    view = Mixture(size=32, scale=(0.08, 1.0), augmentation=CROP_AND_FLIP, global_probability=0.1)
    return replace(
        cmc_small(),
        name="mixture_cmc_small",
        source="our small version of mixture_cmc_in100",
        views=(view,),
    )


def unmix_moco_baseline() -> Recipe:
    """MoCo-v2 on ImageNet-1K."""
    return replace(
        moco_v2(),
        name="unmix_moco_baseline",
        source=_UNMIX,
        published="linear probe on ImageNet-1K, 200 epochs: 67.5",
        method=MoCoConfig(batch_negatives=False),
    )


def unmix_moco() -> Recipe:
    """Un-Mix on MoCo-v2."""
    base = unmix_moco_baseline()
    return replace(
        base,
        name="unmix_moco",
        published="linear probe on ImageNet-1K, 200 epochs: 68.6",
        views=(*base.views, UnMix(per_batch=True)),
    )


def unmix_moco_800() -> Recipe:
    """Four times as long."""
    return replace(
        unmix_moco(),
        name="unmix_moco_800",
        published="linear probe on ImageNet-1K, 800 epochs: 71.8 (MoCo-v2 71.1)",
        epochs=800,
    )


def unmix_cifar10_baseline() -> Recipe:
    """MoCo, asymmetric."""
    return _demo("unmix_cifar10_baseline", "CIFAR-10, ResNet-18, 1000 epochs: 89.11", mixed=False, symmetric=False)


def unmix_cifar10_baseline_symmetric() -> Recipe:
    """MoCo, symmetric."""
    return _demo(
        "unmix_cifar10_baseline_symmetric", "CIFAR-10, ResNet-18, 1000 epochs: 90.49", mixed=False, symmetric=True
    )


def unmix_cifar10() -> Recipe:
    """Un-Mix on asymmetric MoCo."""
    return _demo("unmix_cifar10", "CIFAR-10, ResNet-18, 1000 epochs: 91.34", mixed=True, symmetric=False)


def unmix_cifar10_symmetric() -> Recipe:
    """Un-Mix on symmetric MoCo: the same mixed crops against the keys of either view."""
    return _demo("unmix_cifar10_symmetric", "CIFAR-10, ResNet-18, 1000 epochs: 92.25", mixed=True, symmetric=True)


def unmix_cifar100_baseline() -> Recipe:
    """MoCo, asymmetric."""
    return _demo("unmix_cifar100_baseline", "CIFAR-100, ResNet-18, 1000 epochs: 63.64", mixed=False, symmetric=False)


def unmix_cifar100_baseline_symmetric() -> Recipe:
    """MoCo, symmetric."""
    return _demo(
        "unmix_cifar100_baseline_symmetric", "CIFAR-100, ResNet-18, 1000 epochs: 65.49", mixed=False, symmetric=True
    )


def unmix_cifar100() -> Recipe:
    """Un-Mix on asymmetric MoCo, as `unmix_cifar10`."""
    return _demo("unmix_cifar100", "CIFAR-100, ResNet-18, 1000 epochs: 67.33", mixed=True, symmetric=False)


def unmix_cifar100_symmetric() -> Recipe:
    """Un-Mix on symmetric MoCo, as `unmix_cifar10_symmetric`."""
    return _demo("unmix_cifar100_symmetric", "CIFAR-100, ResNet-18, 1000 epochs: 68.83", mixed=True, symmetric=True)


def _demo(name: str, published: str, mixed: bool, symmetric: bool) -> Recipe:
    crop = Crop(size=32, scale=(0.08, 1.0), augmentation=_CIFAR)
    mixture = UnMix(size=32, scale=(0.08, 1.0), augmentation=_CIFAR, per_batch=True)
    return replace(
        moco_v2_small(),
        name=name,
        source=_DEMO,
        published=published,
        views=(crop, crop, mixture) if mixed else (crop, crop),
        method=MoCoConfig(
            projector=LINEAR,
            ema_momentum=0.99,
            queue=4096,
            temperature=0.1,
            symmetric=symmetric,
            batch_negatives=False,
            shuffle_bn_group=64,
            region_size=4,
        ),
        mean=_CIFAR_MEAN,
        std=_CIFAR_STD,
        epochs=1000,
    )
