from . import evaluation, losses, methods, models, recipes, views
from .api import embed, pretrain
from .errors import UserError
from .evaluation.knn import KnnProbe
from .evaluation.linear import LinearProbe
from .models.checkpoints import load_encoder
from .normalize import Normalize
from .recipes import get_recipe

__all__ = [
    "KnnProbe",
    "LinearProbe",
    "Normalize",
    "UserError",
    "embed",
    "evaluation",
    "get_recipe",
    "load_encoder",
    "losses",
    "methods",
    "models",
    "pretrain",
    "recipes",
    "views",
]
