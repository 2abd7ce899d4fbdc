from .affinity import affinity_loss
from .cells import diversity_loss, invariance_loss, most_different, most_similar, take_cells
from .cosine import cosine_loss, cosine_similarity
from .info_nce import info_nce, info_nce_among
from .reduce import embedding_spread, weighted_mean

__all__ = [
    "affinity_loss",
    "cosine_loss",
    "cosine_similarity",
    "diversity_loss",
    "embedding_spread",
    "info_nce",
    "info_nce_among",
    "invariance_loss",
    "most_different",
    "most_similar",
    "take_cells",
    "weighted_mean",
]
