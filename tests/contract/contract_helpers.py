"""Every method and every composition, as small as they go: what the contract is checked on.

A new method or composition is found as a subclass of its base; the contract then asks for its small version here.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from smalti.methods.affinity import AffinityConfig
from smalti.methods.byol import BYOLConfig
from smalti.methods.cmc import CMCConfig
from smalti.methods.dino import DINOConfig
from smalti.methods.ediy import EDIYConfig
from smalti.methods.ediy_controls import OtherImagesConfig, RandomPairsConfig
from smalti.methods.mcl import MCLConfig
from smalti.methods.moco import MoCoConfig
from smalti.methods.supervised import SupervisedConfig
from smalti.models.backbone import BackboneConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.prototypes import PrototypeHeadConfig
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.copy_paste import CopyPaste
from smalti.views.crops import Crop
from smalti.views.erasing import Cutout, RandomErasing
from smalti.views.mixture import Mixture, UnMix
from smalti.views.montage import Montage
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition
from smalti.views.uneven_mosaic import UnevenMosaic

SIZE, BATCH = 32, 8

BACKBONES = {
    "resnet": TimmBackbone(name="resnet18", stem="stride8", options={"channels": [8, 8, 16, 16]}),
    "vit": TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 8, "img_size": SIZE, "depth": 1, "embed_dim": 24, "num_heads": 3},
    ),
    "swin": TimmBackbone(
        name="swin_tiny_patch4_window7_224",
        options={"img_size": SIZE, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
    ),
}
_MLP = ProjectorConfig(hidden=16, dim=16, norm=True)
_TEACHER = str(Path(__file__).parent.parent / "tiny_teacher.py")
METHODS: dict[str, Any] = {
    "moco": MoCoConfig(
        projector=ProjectorConfig(kind="conv", hidden=16, dim=16), queue=20, shuffle_bn_group=4, region_size=2
    ),
    "byol": BYOLConfig(projector=_MLP, predictor_hidden=16, region_size=2, ema_momentum=0.9),
    "dino": DINOConfig(
        head=PrototypeHeadConfig(hidden=16, bottleneck=8, outputs=32),
        ema_momentum=0.9,
        teacher_warmup_epochs=1,
        region_size=2,
    ),
    "cmc": CMCConfig(projector=ProjectorConfig(hidden=16, dim=16), num_negatives=20, temperature=0.2, region_size=2),
    "ediy": EDIYConfig(projector=_MLP, predictor_hidden=16, region_size=2, ema_momentum=0.9, warmup_epochs=0.5),
    "mcl": MCLConfig(level_weights=(1.0,), fpn=False, channels=8, hidden=16, dim=16, region_size=2, ema_momentum=0.9),
    "mcl of two levels": MCLConfig(
        level_weights=(0.5, 0.5), matching="all", channels=8, hidden=16, dim=16, region_size=2, ema_momentum=0.9
    ),
    "supervised": SupervisedConfig(region_size=2),
    "affinity": AffinityConfig(
        teacher=_TEACHER,
        projector=ProjectorConfig(hidden=16),
        region_size=2,
        student_temperature=0.2,
        teacher_temperature=0.2,
    ),
}
# Further ways of a method to depend on what other processes hold.
VARIANTS: dict[str, Any] = {
    "cmc, queue": replace(METHODS["cmc"], negatives="queue"),
    "ediy, random pairs": RandomPairsConfig(**vars(METHODS["ediy"]) | {"warmup_epochs": 0.0}),
    "ediy, other images": OtherImagesConfig(**vars(METHODS["ediy"]) | {"warmup_epochs": 0.0}),
    "moco, synchronized and symmetric": replace(METHODS["moco"], shuffle_bn_group=0, symmetric=True),
}
STANDARD = Crop(size=SIZE)
COMPOSITIONS: dict[str, Composition] = {
    "crops": Crop(size=SIZE // 2, count=2),
    "mosaic": Mosaic(tile_size=SIZE // 2, max_shift=6),
    "montage": Montage(size=SIZE, level=1),
    "mixture": Mixture(size=SIZE, global_images=2, region_images=3, region_probability=0.5),
    "un-mix": UnMix(size=SIZE),
    "cutout": Cutout(size=SIZE, side=12),
    "random erasing": RandomErasing(size=SIZE),
    "uneven mosaic": UnevenMosaic(size=SIZE),
    "copy-paste": CopyPaste(size=SIZE),
}


class System(NamedTuple):
    """A method, a composition and a backbone, by name."""

    method: str
    composition: str
    backbone: str

    @property
    def views(self) -> tuple[Composition, ...]:
        """The composition in place of the standard views, or beside them."""
        composition = COMPOSITIONS[self.composition]
        if composition.standard:
            return composition, composition
        sides = 2 if self.method == "mcl of two levels" else 1
        return (STANDARD, STANDARD, *[composition] * sides)

    @property
    def backbone_config(self) -> BackboneConfig:
        """A backbone as small as they go: two halves for a method that splits colors."""
        backbone = BACKBONES[self.backbone]
        return SplitBackbone(half=backbone) if self.method.startswith("cmc") else backbone

    @property
    def method_config(self) -> Any:
        """The method's settings for the backbone: a plain ViT has no stages for a feature pyramid network."""
        config = (METHODS | VARIANTS)[self.method]
        return replace(config, fpn=False) if isinstance(config, MCLConfig) and self.backbone == "vit" else config

    def __str__(self) -> str:
        return "-".join(self)


def systems() -> list[System]:
    """Every method with every composition on every kind of backbone."""
    return [
        System(method, composition, backbone)
        for method in METHODS
        for composition in COMPOSITIONS
        for backbone in BACKBONES
        if _fits(method, composition)
    ]


def _fits(method: str, composition: str) -> bool:
    """A pyramid has as many levels as the views, so there are two small MCLs: for montages and for all others."""
    return (composition == "montage") == (method == "mcl of two levels") or not method.startswith("mcl")


def classes_below(base: type) -> set[type]:
    """The classes of the package that can be built and derive from a base."""
    below = {each for child in base.__subclasses__() for each in ({child} | classes_below(child))}
    return {each for each in below if each.__module__.startswith("smalti.") and not each.__abstractmethods__}
