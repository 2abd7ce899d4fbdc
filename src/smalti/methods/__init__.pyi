from .affinity import AffinityConfig, AffinityDistillation
from .byol import BYOL, BYOLConfig
from .cmc import CMC, CMCConfig, QueueCMC
from .dino import DINO, DINOConfig
from .ediy import EDIY, EDIYConfig
from .mcl import MCL, MCLConfig
from .method import DataInfo, Method, MethodConfig, Progress, Step
from .moco import MoCo, MoCoConfig
from .supervised import Supervised, SupervisedConfig

__all__ = [
    "BYOL",
    "CMC",
    "DINO",
    "EDIY",
    "MCL",
    "AffinityConfig",
    "AffinityDistillation",
    "BYOLConfig",
    "CMCConfig",
    "DINOConfig",
    "DataInfo",
    "EDIYConfig",
    "MCLConfig",
    "Method",
    "MethodConfig",
    "MoCo",
    "MoCoConfig",
    "Progress",
    "QueueCMC",
    "Step",
    "Supervised",
    "SupervisedConfig",
]
