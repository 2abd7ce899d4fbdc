"""Every method and every composition, as small as they go: what the contract is checked on.

A new method or composition is found through the types of `Recipe`; the contract then asks for its small version here.
"""

from typing import get_args, get_type_hints

from smalti.methods.byol import BYOLConfig
from smalti.methods.method import MethodConfig
from smalti.methods.moco import MoCoConfig
from smalti.models.backbone import BackboneConfig
from smalti.models.heads import ProjectorConfig
from smalti.training.recipe import Recipe
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition

SIZE, BATCH = 32, 8

BACKBONES = {
    "resnet": BackboneConfig(name="resnet18", stem="stride8", options={"channels": [8, 8, 16, 16]}),
    "vit": BackboneConfig(
        name="vit_tiny_patch16_224",
        options={"patch_size": 8, "img_size": SIZE, "depth": 1, "embed_dim": 24, "num_heads": 3},
    ),
    "swin": BackboneConfig(
        name="swin_tiny_patch4_window7_224",
        options={"img_size": SIZE, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
}
METHODS: dict[str, MethodConfig] = {
    "moco": MoCoConfig(
        projector=ProjectorConfig(kind="conv", hidden=16, dim=16), queue=20, norm_group=4, region_size=2
    ),
    "byol": BYOLConfig(
        projector=ProjectorConfig(hidden=16, dim=16, norm=True), predictor_hidden=16, region_size=2, momentum=0.9
    ),
}
STANDARD = Crop(size=SIZE)
COMPOSITIONS: dict[str, Composition] = {
    "crops": Crop(size=SIZE // 2, count=2),
    "mosaic": Mosaic(tile_size=SIZE // 2, max_shift=6),
}


def classes_in(field: str) -> set[type]:
    """The classes that a field of a recipe may hold."""
    hint = get_type_hints(Recipe)[field]
    members = get_args(hint)
    return set(get_args(members[0])) if members and members[-1] is Ellipsis else set(members)


def systems() -> dict[tuple[str, str], tuple[Composition, ...]]:
    """The views of every method with every composition beside its standard views, or in place of them."""
    found = {}
    for method in METHODS:
        for name, composition in COMPOSITIONS.items():
            views = (composition, composition) if composition.standard else (STANDARD, STANDARD, composition)
            found[method, name] = views
    return found
