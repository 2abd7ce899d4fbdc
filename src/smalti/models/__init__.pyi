from .backbone import Backbone, BackboneConfig, Features
from .batch_norm import average_statistics, split_batch_norm, synchronize_batch_norm
from .checkpoints import load_encoder
from .encoder import Encoder, EncoderInfo, save_encoder
from .heads import ProjectorConfig
from .momentum import MomentumPair, momentum_copy, update_targets
from .network import Network
from .prototypes import PrototypeHeadConfig
from .queue import Queue
from .regions import pool_regions
from .split import SplitBackbone
from .timm_backbone import TimmBackbone

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Encoder",
    "EncoderInfo",
    "Features",
    "MomentumPair",
    "Network",
    "ProjectorConfig",
    "PrototypeHeadConfig",
    "Queue",
    "SplitBackbone",
    "TimmBackbone",
    "average_statistics",
    "load_encoder",
    "momentum_copy",
    "pool_regions",
    "save_encoder",
    "split_batch_norm",
    "synchronize_batch_norm",
    "update_targets",
]
