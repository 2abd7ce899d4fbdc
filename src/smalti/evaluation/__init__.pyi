from .features import FeatureSet, extract_features
from .frozen import assert_frozen, weights_digest
from .knn import KnnProbe, knn_scores
from .linear import LinearProbe

__all__ = [
    "FeatureSet",
    "KnnProbe",
    "LinearProbe",
    "assert_frozen",
    "extract_features",
    "knn_scores",
    "weights_digest",
]
