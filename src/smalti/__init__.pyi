from . import evaluation, losses, methods, models, recipes, testing, views
from .api import embed, pretrain
from .errors import UserError
from .evaluation.knn import KnnProbe
from .evaluation.linear import LinearProbe
from .models.checkpoints import load_encoder
from .normalize import Normalize
from .recipes.registry import get_recipe
from .training.fit import Engine
from .training.optim import OptimizerConfig
from .training.recipe import Recipe

__all__ = [
    "Engine",
    "KnnProbe",
    "LinearProbe",
    "Normalize",
    "OptimizerConfig",
    "Recipe",
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
    "testing",
    "views",
]
