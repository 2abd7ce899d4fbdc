"""A recipe file: MosRep at 16 pixels with a network of a few thousand weights."""

from typing import Any

from smalti.methods.moco import MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.recipe import Recipe
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic

BATCH, EPOCHS = 8, 4
BACKBONE = TimmBackbone(name="resnet18", stem="stride16", options={"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]})
METHOD = MoCoConfig(
    projector=ProjectorConfig(kind="conv", hidden=16, dim=16),
    queue=32,
    shuffle_bn_group=4,
    region_size=2,
    ema_momentum=0.9,
)


def recipe(**changes: Any) -> Recipe:
    """Two crops and a mosaic of four tiles."""
    views = (Crop(size=16), Crop(size=16), Mosaic(tile_size=8, max_shift=4))
    settings = {"views": views, "backbone": BACKBONE, "method": METHOD, "epochs": EPOCHS, "batch_size": BATCH}
    return Recipe(name="tiny", precision="32", **(settings | changes))
