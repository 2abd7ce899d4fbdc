"""Self-supervised visual pre-training by composing views out of several images.

The verbs of the command line, imported when first used so that `import smalti` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smalti.api import embed as embed
    from smalti.api import pretrain as pretrain
    from smalti.evaluation.knn import KnnProbe as KnnProbe
    from smalti.evaluation.linear import LinearProbe as LinearProbe
    from smalti.models.checkpoints import load_encoder as load_encoder
    from smalti.recipes import get_recipe as get_recipe

_HOMES = {
    "pretrain": "smalti.api",
    "embed": "smalti.api",
    "KnnProbe": "smalti.evaluation.knn",
    "LinearProbe": "smalti.evaluation.linear",
    "load_encoder": "smalti.models.checkpoints",
    "get_recipe": "smalti.recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smalti' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
