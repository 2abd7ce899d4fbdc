"""E-DIY: the published ImageNet settings and ablations, and a small one for images of 32 px.

All but the small one need the paper's teacher, a ResNet-50 trained by BYOL: give it as --method.teacher. Without it
the run's own target takes its place after ten epochs, which is not the paper's setting.
"""

from dataclasses import replace
from typing import Any

from smalti.methods.ediy import EDIYConfig
from smalti.methods.ediy_controls import OtherImagesConfig, RandomPairsConfig
from smalti.recipes.byol import byol, byol_300, byol_small, byol_two_crop
from smalti.training.recipe import Recipe


def ediy() -> Recipe:
    """1000 epochs of ImageNet-1K, but for the two new terms BYOL's settings.

    The text has 2048 images on its devices, gradients accumulated "to reproduce the results of BYOL", and a rate of
    3.2: BYOL's 0.2 * 4096 / 256. So a batch is BYOL's 4096, in two parts.
    """
    return _ediy(
        replace(byol(), views=byol_two_crop().views, accumulate=2),
        name="ediy",
        source="arXiv:2106.00537, section 4.2",
        published="Mask R-CNN R50-FPN 1x on COCO: 41.5 AP^bb, 37.5 AP^mk; R50-C4 1x: 40.7, 35.3; "
        "VOC: 58.4 AP, 83.8 AP50, 65.7 AP75; linear probe on ImageNet-1K: 73.8",
    )


def ediy_300() -> Recipe:
    """300 epochs, for the ablations of Table 1; momentum and weight decay are BYOL's for 300 epochs."""
    base = byol_300()
    return _ediy(
        replace(base, views=byol_two_crop().views, optimizer=replace(base.optimizer, base_lr=0.2), accumulate=2),
        name="ediy_300",
        source="arXiv:2106.00537, Table 1",
        published="Mask R-CNN R50-FPN 1x on COCO: 41.1 AP^bb, 37.3 AP^mk",
    )


def ediy_diversity_alone() -> Recipe:
    """R-DEM alone."""
    return _row(ediy_300(), "ediy_diversity_alone", "35.3 AP^bb, 32.3 AP^mk", invariance=0.0, byol=0.0)


def ediy_invariance_alone() -> Recipe:
    """R-IEM alone, which collapses."""
    return _row(ediy_300(), "ediy_invariance_alone", "3.8 AP^bb, 3.7 AP^mk", diversity=0.0, byol=0.0)


def ediy_without_byol() -> Recipe:
    """R-DEM and R-IEM."""
    return _row(ediy_300(), "ediy_without_byol", "39.8 AP^bb, 36.2 AP^mk", byol=0.0)


def ediy_without_invariance() -> Recipe:
    """BYOL and R-DEM."""
    return _row(ediy_300(), "ediy_without_invariance", "40.5 AP^bb, 36.8 AP^mk", invariance=0.0)


def ediy_without_diversity() -> Recipe:
    """BYOL and R-IEM."""
    return _row(ediy_300(), "ediy_without_diversity", "40.3 AP^bb, 36.8 AP^mk", diversity=0.0)


def ediy_random_pairs() -> Recipe:
    """Pairs drawn at random; no teacher."""
    base = ediy_300()
    method = RandomPairsConfig(**vars(base.method) | {"warmup_epochs": 0.0})
    return _row(replace(base, method=method), "ediy_random_pairs", "40.4 AP^bb, 36.9 AP^mk")


def ediy_other_images() -> Recipe:
    """Cells pushed away from other images, as in DenseCL."""
    base = ediy_300()
    method = OtherImagesConfig(**vars(base.method))
    return _row(replace(base, method=method), "ediy_other_images", "40.3 AP^bb, 36.7 AP^mk")


def ediy_100() -> Recipe:
    """100 epochs, for the weights of Table 2; momentum and weight decay are those for 300 epochs."""
    return replace(
        ediy_300(),
        name="ediy_100",
        source="arXiv:2106.00537, Table 2",
        published="Mask R-CNN R50-FPN 1x on COCO: 40.3 AP^bb, 36.6 AP^mk",
        epochs=100,
    )


def ediy_weak_byol() -> Recipe:
    """A tenth of BYOL's weight."""
    return _row(ediy_100(), "ediy_weak_byol", "38.6 AP^bb, 35.1 AP^mk", byol=0.1)


def ediy_weak_diversity() -> Recipe:
    """A tenth of R-DEM's weight."""
    return _row(ediy_100(), "ediy_weak_diversity", "40.1 AP^bb, 36.6 AP^mk", diversity=0.1)


def ediy_weak_invariance() -> Recipe:
    """A tenth of R-IEM's weight."""
    return _row(ediy_100(), "ediy_weak_invariance", "38.8 AP^bb, 35.4 AP^mk", invariance=0.1)


def ediy_small() -> Recipe:
    """Two views of 32 px and `byol_small`'s settings; the run's own target is the teacher."""
    return _ediy(byol_small(), name="ediy_small", source="our small version of ediy")


def _ediy(base: Recipe, name: str, source: str, published: str = "") -> Recipe:
    """A recipe of BYOL's with E-DIY's terms."""
    method = EDIYConfig(**vars(base.method))
    return replace(base, name=name, source=source, published=published, method=method)


def _row(base: Recipe, name: str, published: str, **changes: Any) -> Recipe:
    """A row of an ablation table."""
    published = f"Mask R-CNN R50-FPN 1x on COCO: {published}"
    return replace(base, name=name, published=published, method=replace(base.method, **changes))
