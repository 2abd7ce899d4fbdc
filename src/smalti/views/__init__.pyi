from .batch import Batch
from .canvas import Canvas, Regions
from .collate import Collate
from .crops import Augmentation, Crop
from .erasing import Cutout, RandomErasing
from .finish import Normalize
from .mixture import Mixture, UnMix
from .montage import Montage
from .mosaic import Mosaic
from .plan import Composition, Plan, Tiles
from .plot import plot_views
from .rng import ViewRNG

__all__ = [
    "Augmentation",
    "Batch",
    "Canvas",
    "Collate",
    "Composition",
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
    "ViewRNG",
    "plot_views",
]
