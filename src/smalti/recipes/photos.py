"""The demonstration: MosRep on the embedded photographs, in minutes on two cores."""

from dataclasses import replace

from smalti.models.backbone import BackboneConfig
from smalti.recipes.moco_small import mosrep_moco_small
from smalti.training.recipe import Recipe


def photos_demo() -> Recipe:
    """A narrow ResNet-10 and views of 48 px, after `mosrep_moco_small`."""
    base = mosrep_moco_small().resized(48)
    return replace(
        base,
        name="photos_demo",
        source="our demonstration",
        published="",
        backbone=BackboneConfig(
            name="resnet18", stem="stride16", options={"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}
        ),
        method=replace(base.method, queue=2048, region_size=3, norm_group=64),
        optimiser=replace(base.optimiser, base_lr=0.12, weight_decay=1e-4, warmup_epochs=1.0),
        epochs=12,
        batch_size=128,
    )
