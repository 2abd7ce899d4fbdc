"""Nearest neighbors against loops, against scikit-learn, and against themselves in smaller pieces."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from smalti.errors import UserError
from smalti.evaluation.features import FeatureSet
from smalti.evaluation.knn import KnnProbe, knn_scores


def make_data(bank: int = 60, queries: int = 25, dim: int = 8, classes: int = 4, seed: int = 0):
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(classes, dim))
    labels = generator.integers(0, classes, bank + queries)
    features = centers[labels] + 0.8 * generator.normal(size=(bank + queries, dim))
    features = (features * generator.uniform(0.1, 10, (bank + queries, 1))).astype(np.float32)
    return features[:bank], labels[:bank], features[bank:], labels[bank:]


def vote_by_loops(bank, labels, queries, k: int, temperature: float | None) -> list[int]:
    """The definition in float64, one pair at a time; temperature None counts votes."""
    result = []
    for query in queries.astype(np.float64):
        near = []
        for row, label in zip(bank.astype(np.float64), labels, strict=True):
            near.append((float(query @ row) / math.sqrt(float(query @ query) * float(row @ row)), label))
        near = sorted(near, reverse=True)[:k]
        votes: dict[int, float] = {}
        for similarity, label in near:  # insertion order is nearest first, and max takes the first of equals
            votes[label] = votes.get(label, 0.0) + (1 if temperature is None else math.exp(similarity / temperature))
        result.append(max(votes, key=votes.__getitem__))
    return result


@pytest.mark.parametrize("k", [1, 2, 5, 60])
@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
def test_votes_are_those_of_the_definition(k: int, temperature: float | None) -> None:
    bank, labels, queries, _ = make_data()
    probe = KnnProbe(k=k, weighted=temperature is not None, temperature=temperature or 0.07)
    assert probe.fit(bank, labels).predict(queries).tolist() == vote_by_loops(bank, labels, queries, k, temperature)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_plain_votes_of_two_classes_are_those_of_scikit_learn(k: int) -> None:
    bank, labels, queries, _ = make_data(classes=2, seed=1)  # with an odd k there are no ties, where they differ
    other = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(bank, labels)
    given = KnnProbe(k=k, weighted=False).fit(bank, labels).predict(queries)
    np.testing.assert_array_equal(given, other.predict(queries))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 60), st.booleans())
def test_chunks_change_no_result(query_chunk: int, bank_chunk: int, k: int, weighted: bool) -> None:
    bank, labels, queries, _ = make_data()
    whole = KnnProbe(k=k, weighted=weighted).fit(bank, labels)
    parts = KnnProbe(k=k, weighted=weighted, query_chunk=query_chunk, bank_chunk=bank_chunk).fit(bank, labels)
    np.testing.assert_array_equal(parts.predict(queries), whole.predict(queries))
    np.testing.assert_array_equal(parts.kneighbors(queries)[1], whole.kneighbors(queries)[1])


def test_ties_go_to_the_nearest() -> None:
    bank = np.array([[1, 0.2], [1, 0.1], [1, 0.4], [1, 0.3]], dtype=np.float32)
    labels = np.array([5, 9, 9, 5])  # from near to far: 9, 5, 5, 9
    assert KnnProbe(k=4, weighted=False).fit(bank, labels).predict(np.array([[1.0, 0.0]])).tolist() == [9]


def test_a_tiny_temperature_does_not_overflow() -> None:
    bank, labels, queries, _ = make_data()
    nearest = KnnProbe(k=1).fit(bank, labels).predict(queries)
    np.testing.assert_array_equal(KnnProbe(k=9, temperature=1e-4).fit(bank, labels).predict(queries), nearest)


def test_the_bank_is_neither_copied_nor_changed() -> None:
    bank, labels, queries, _ = make_data()
    before = bank.copy()
    probe = KnnProbe(k=3).fit(bank, labels)
    probe.predict(queries)
    np.testing.assert_array_equal(bank, before)
    assert probe._bank.data_ptr() == bank.ctypes.data


def test_half_precision_banks_and_tensors_are_taken() -> None:
    bank, labels, queries, truth = make_data()
    full = KnnProbe(k=5).fit(bank, labels).score(queries, truth)
    half = KnnProbe(k=5).fit(torch.from_numpy(bank).half(), torch.from_numpy(labels))
    assert half.score(torch.from_numpy(queries).half(), torch.from_numpy(truth)) == pytest.approx(full, abs=0.05)


def test_several_k_come_from_one_search() -> None:
    bank, labels, queries, truth = make_data()
    train = FeatureSet(bank, labels, ("",) * 60, tuple("abcd"))
    test = FeatureSet(queries, truth, ("",) * 25, tuple("abcd"))
    scores = knn_scores(train, test)
    assert scores == {k: KnnProbe(k=k).fit(bank, labels).score(queries, truth) for k in (1, 5, 20)}
    assert 0.5 < scores[5] < 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"k": 61}, "got k=61 for a bank of 60; expected 1 to 60"),
        ({"k": 0}, "got k=0"),
        ({"temperature": 0.0}, "got temperature=0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, complaint: str) -> None:
    bank, labels, _, _ = make_data()
    with pytest.raises(UserError, match=complaint):
        KnnProbe(**settings).fit(bank, labels)


def test_sets_that_do_not_match_are_refused() -> None:
    bank, labels, queries, truth = make_data()
    probe = KnnProbe(k=1).fit(bank, labels)
    with pytest.raises(UserError, match="dimension 7 for a bank of 8"):
        probe.predict(queries[:, :7])
    with pytest.raises(UserError, match=r"features of shape \(8,\)"):
        probe.predict(queries[0])
    train = FeatureSet(bank, labels, (), ("cat", "dog"))
    with pytest.raises(UserError, match="unknown to the training set: "):
        knn_scores(train, FeatureSet(queries, np.minimum(truth, 1), (), ("cat", "owl")))
    with pytest.raises(UserError, match="images without labels"):
        knn_scores(train, FeatureSet(queries, None, ()))
