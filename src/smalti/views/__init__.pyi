from .batch import Batch
from .canvas import Canvas, Regions
from .collate import Collate
from .copy_paste import CopyPaste
from .crops import Augmentation, Crop
from .erasing import Cutout, RandomErasing
from .finish import Normalize
from .mixture import Mixture, UnMix
from .montage import Montage
from .mosaic import Mosaic
from .plan import Composition, Plan, Tiles
from .plot import plot_views
from .rng import ViewRNG
from .uneven_mosaic import UnevenMosaic

__all__ = [
    "Augmentation",
    "Batch",
    "Canvas",
    "Collate",
    "Composition",
    "CopyPaste",
    "Crop",
    "Cutout",
    "Mixture",
    "Montage",
    "Mosaic",
    "Normalize",
    "Plan",
    "RandomErasing",
    "Regions",
    "Tiles",
    "UnMix",
    "UnevenMosaic",
    "ViewRNG",
    "plot_views",
]
