"""Nearest neighbors in feature space: the quickest score of an encoder, with nothing to train.

Legend: N queries, M features in the bank, D their dimension, C classes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import UserError
from smalti.evaluation.features import FeatureSet, matching_labels

# 1 and 5 as in MosRep (ICLR 2023), 20 and 200 as in DINO (ICCV 2021).
PAPER_KS = (1, 5, 20, 200)
_BLOCK = 16384  # features checked at a time

Array = np.ndarray | Tensor


class KnnProbe:
    """Each of the k most similar features of the bank votes for its class.

    Similarity is the cosine. A weighted vote counts exp(similarity / temperature) (Wu et al., CVPR 2018); a plain
    one counts 1. Of classes with equally many votes, the one with the nearest neighbor wins.

    The bank is kept as it is given, not copied. Memory beyond it: about 4 * query_chunk * (bank_chunk + C) bytes for
    similarities and votes, 4 * D * (N + bank_chunk) for normalized features and 12 * k * N for the neighbors.

    Args:
        k: neighbors, 1 to M.
        weighted: whether nearer neighbors count more.
        temperature: of the weighted vote, above 0; the smaller, the more the nearest decides.
        query_chunk: queries compared at a time; changes memory, not results.
        bank_chunk: features of the bank compared at a time; changes memory, not results.
        device: where similarities are computed.

    Attributes:
        classes_: (C,) the distinct labels, sorted.

    Example:
        >>> features, labels = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], dtype=np.float32), np.array([3, 3, 7])
        >>> KnnProbe(k=1).fit(features, labels).predict(np.array([[0.2, 1.0]], dtype=np.float32))
        array([7])
    """

    def __init__(
        self,
        *,
        k: int = 20,
        weighted: bool = True,
        temperature: float = 0.07,
        query_chunk: int = 1024,
        bank_chunk: int = 16384,
        device: str | torch.device = "cpu",
    ) -> None:
        self.k = k
        self.weighted = weighted
        self.temperature = temperature
        self.query_chunk = query_chunk
        self.bank_chunk = bank_chunk
        self.device = device

    def fit(self, features: Array, labels: Array) -> "KnnProbe":
        """Take the bank.

        Args:
            features: (M, D) of any float type, not normalized.
            labels: (M,) integers.

        Raises:
            UserError: k is not in 1 to M, the temperature not above 0, or the lengths differ.
        """
        self._bank = _checked(features)
        if len(labels) != len(self._bank):
            raise UserError(f"{len(labels)} labels for {len(self._bank)} features", "one each", "pass both of one set")
        if not 1 <= self.k <= len(self._bank):
            raise UserError(
                f"k={self.k} for a bank of {len(self._bank)}", f"1 to {len(self._bank)}", "ask for fewer neighbors"
            )
        if self.temperature <= 0:
            raise UserError(f"temperature={self.temperature}", "a number above 0", "try 0.07")
        self.classes_, codes = np.unique(np.asarray(labels), return_inverse=True)
        self._codes = torch.from_numpy(codes).to(self.device)  # (M,): indices into classes_
        return self

    def predict(self, features: Array) -> np.ndarray:
        """(N, D) -> (N,) labels."""
        return self._vote(*self._neighbors(features, self.k))

    def score(self, features: Array, labels: Array) -> float:
        """Share of the (N, D) features whose predicted class is the one in labels (N,), 0 to 1."""
        return float((self.predict(features) == np.asarray(labels)).mean())

    def kneighbors(self, features: Array, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The most similar features of the bank, nearest first.

        Args:
            features: (N, D).
            k: neighbors a query, 1 to M; the probe's own unless given.

        Returns:
            (similarities, indices), (N, k) float32 cosines and (N, k) int64 rows of the bank.
        """
        similarities, indices = self._neighbors(features, k or self.k)
        return similarities.cpu().numpy(), indices.cpu().numpy()

    def _neighbors(self, features: Array, k: int) -> tuple[Tensor, Tensor]:
        queries = F.normalize(_checked(features).to(self.device, torch.float32), dim=1)  # (N, D)
        if queries.shape[1] != self._bank.shape[1]:
            raise UserError(
                f"features of dimension {queries.shape[1]} for a bank of {self._bank.shape[1]}",
                "the same encoder for both",
                "extract them again",
            )
        best = torch.full((len(queries), k), -torch.inf, device=queries.device)
        where = torch.zeros(best.shape, dtype=torch.long, device=queries.device)
        # The bank outside, so that each of its blocks is moved and normalized once.
        for start, block in self._normalized_blocks():
            for rows in _slices(len(queries), self.query_chunk):
                similar, index = (queries[rows] @ block.T).topk(min(k, len(block)), dim=1)
                similar = torch.cat([best[rows], similar], dim=1)
                index = torch.cat([where[rows], index + start], dim=1)
                best[rows], order = similar.topk(k, dim=1)
                where[rows] = index.gather(1, order)
            del block  # before the next one is normalized
        return best, where

    def _normalized_blocks(self) -> Iterator[tuple[int, Tensor]]:
        for rows in _slices(len(self._bank), self.bank_chunk):
            yield rows.start, F.normalize(self._bank[rows].to(self.device, torch.float32), dim=1)

    def _vote(self, similarities: Tensor, indices: Tensor) -> np.ndarray:
        codes = self._codes[indices]  # (N, k)
        winners = torch.empty(len(codes), dtype=torch.long, device=codes.device)
        for rows in _slices(len(codes), self.query_chunk):
            weights = torch.ones_like(similarities[rows])
            if self.weighted:
                # Less the nearest's, so that no temperature overflows; the order of the classes stays.
                weights = torch.exp((similarities[rows] - similarities[rows, :1]) / self.temperature)
            votes = weights.new_zeros(len(weights), len(self.classes_)).scatter_add_(1, codes[rows], weights)
            # Neighbors run from near to far and argmax takes the first, so ties go to the nearest.
            first = votes.gather(1, codes[rows]).argmax(dim=1, keepdim=True)
            winners[rows] = codes[rows].gather(1, first)[:, 0]
        return self.classes_[winners.cpu().numpy()]


def knn_scores(
    train: FeatureSet,
    test: FeatureSet,
    ks: Sequence[int] | None = None,
    *,
    weighted: bool = True,
    temperature: float = 0.07,
    device: str | torch.device = "cpu",
) -> dict[int, float]:
    """Accuracies of several k from one search for the largest.

    Args:
        train: the bank, labeled.
        test: the queries, labeled, of classes that `train` has.
        ks: neighbors; `PAPER_KS` as far as the bank reaches unless given.
        weighted: as in `KnnProbe`.
        temperature: as in `KnnProbe`.
        device: as in `KnnProbe`.

    Returns:
        {k: share of test images classified correctly, 0 to 1}.

    Raises:
        UserError: a set is unlabeled, `test` has a class that `train` lacks, or a k is larger than the bank.

    Example:
        >>> train = FeatureSet(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a.png", "b.png"), ("cat", "dog"))
        >>> knn_scores(train, train, ks=(1,))
        {1: 1.0}
    """
    train_labels, test_labels = matching_labels(train, test)
    ks = tuple(k for k in PAPER_KS if k <= len(train)) if ks is None else tuple(ks)
    probe = KnnProbe(k=max(ks), weighted=weighted, temperature=temperature, device=device)
    similarities, indices = probe.fit(train.features, train_labels)._neighbors(test.features, max(ks))
    return {k: float((probe._vote(similarities[:, :k], indices[:, :k]) == test_labels).mean()) for k in ks}


def _checked(features: Array) -> Tensor:
    features = torch.as_tensor(features)
    if features.ndim != 2:
        raise UserError(f"features of shape {tuple(features.shape)}", "(images, dimension)", "flatten the rest")
    if not all(bool(block.isfinite().all()) for block in features.split(_BLOCK)):
        raise UserError("features with NaN or infinity", "finite numbers", "check the encoder")
    return features


def _slices(length: int, chunk: int) -> Iterator[slice]:
    for start in range(0, length, chunk):
        yield slice(start, min(start + chunk, length))
