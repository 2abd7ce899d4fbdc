"""The linear probe learns, repeats itself, and does what its equations say."""

import math

import numpy as np
import pytest
import torch

from smalti.errors import UserError
from smalti.evaluation.linear import LinearProbe


def make_data(count: int = 300, dim: int = 6, spread: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around three directions; labels 2, 5 and 7."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 3, count)
    features = 3 * np.eye(3, dim)[codes] + spread * generator.normal(size=(count, dim)) + 2
    return features.astype(np.float32), np.array([2, 5, 7])[codes]


@pytest.mark.parametrize("probe", [LinearProbe(), LinearProbe.paper(), LinearProbe.semi_supervised()])
def test_separable_classes_are_separated(probe: LinearProbe) -> None:
    probe.fit(*make_data())
    assert probe.score(*make_data(seed=1)) == 1.0
    assert probe.losses_[0] > probe.losses_[-1]
    assert set(probe.predict(make_data()[0])) == {2, 5, 7}


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    features, labels = make_data(spread=2.0)
    weights = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        weights.append(LinearProbe(epochs=3, batch_size=64, seed=seed).fit(features, labels).weight_)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def standardized_by_loops(features: np.ndarray) -> np.ndarray:
    rows = [row / math.sqrt(sum(value * value for value in row)) for row in features.astype(np.float64)]
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        std = math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
        columns.append([(value - mean) / std for value in column])
    return np.array(columns).T


def rate_by_formula(step: int, steps: int, base: float, milestones: tuple[int, ...]) -> float:
    if milestones:
        return base * 0.1 ** sum(step >= milestone for milestone in milestones)
    return base * (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize("milestones", [(), (1,)])
@pytest.mark.parametrize("normalize", ["none", "standardize"])
def test_training_is_that_of_the_equations(normalize: str, milestones: tuple[int, ...]) -> None:
    """Softmax regression by hand in float64: gradient, decay, momentum, schedule, and the batches' order."""
    features, labels = make_data(count=50)
    settings = {"learning_rate": 0.2, "momentum": 0.9, "weight_decay": 0.01, "seed": 3}
    probe = LinearProbe(epochs=2, batch_size=16, normalize=normalize, milestones=milestones, **settings)
    probe.fit(features, labels)

    data = features.astype(np.float64) if normalize == "none" else standardized_by_loops(features)
    data = np.concatenate([data, np.ones((50, 1))], axis=1)  # the bias as one more weight
    codes = np.searchsorted([2, 5, 7], labels)
    weight, velocity = np.zeros((3, 7)), np.zeros((3, 7))
    shuffle = torch.Generator().manual_seed(3)
    step = 0
    for _ in range(2):
        order = torch.randperm(50, generator=shuffle).numpy()
        for start in (0, 16, 32, 48):
            rows = order[start : start + 16]
            gradient = 0.01 * weight
            for row in rows:
                scores = np.exp(weight @ data[row])
                gradient = gradient + np.outer(scores / scores.sum() - np.eye(3)[codes[row]], data[row]) / len(rows)
            velocity = 0.9 * velocity + gradient
            rate = rate_by_formula(step, 8, 0.2 * 16 / 256, tuple(4 * epoch for epoch in milestones))
            weight = weight - rate * velocity
            step += 1
    np.testing.assert_allclose(probe.weight_.numpy(), weight[:, :6], rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(probe.bias_.numpy(), weight[:, 6], rtol=2e-4, atol=1e-6)


def test_a_dead_dimension_does_no_harm() -> None:
    features, labels = make_data()
    features[:, 3] = 0
    assert LinearProbe().fit(features, labels).score(features, labels) == 1.0


@pytest.mark.parametrize(
    ("features", "labels", "complaint"),
    [
        (np.zeros((4, 2)), [0, 1], r"features of shape \(4, 2\) with 2 labels"),
        (np.zeros((2, 2)), [1, 1], "got 1 class"),
        (np.array([[1.0], [np.nan]]), [0, 1], "NaN or infinity"),
    ],
)
def test_unusable_sets_are_refused(features: np.ndarray, labels: list[int], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        LinearProbe().fit(features, np.array(labels))


def test_divergence_is_an_error_not_an_accuracy() -> None:
    features, labels = make_data()
    with pytest.raises(UserError, match="a loss that diverged in epoch"):
        LinearProbe(learning_rate=1e30, normalize="none").fit(features * 1e10, labels)
