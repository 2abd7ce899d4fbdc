"""What moves at an optimizer step, how far, and how often."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_recipe
import torch
from helpers import EIGHT_BIT, ListSource, textured

from smalti.models.momentum import update_targets
from smalti.runs import RunFolder
from smalti.training import loop
from smalti.training.fit import fit
from smalti.training.optim import OptimizerConfig
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import canvases
from smalti.views.loader import BatchOrder, ViewDataset

BASE_LR, WARMUP_EPOCHS = 0.5, 1
OPTIMIZER = OptimizerConfig(base_lr=BASE_LR, warmup_epochs=WARMUP_EPOCHS, momentum=0.0, weight_decay=0.0)
SOURCE = ListSource(textured(tiny.IMAGES, side=40))


def train(recipe: Recipe, run: Path) -> TrainState:
    return fit(SOURCE, RunFolder(run), recipe, EIGHT_BIT, engine=tiny.ENGINE, export=lambda backbone: None)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """("rate", r) for every step of the optimizer, ("targets", error of the momentum update) for every such update."""
    noted: list[tuple[str, Any]] = []
    step = torch.optim.SGD.step

    def noting_step(self: torch.optim.SGD, closure: Any = None) -> Any:
        result = step(self, closure)
        noted.append(("rate", self.param_groups[0]["lr"]))
        return result

    def noting_update(pairs: list[Any]) -> None:
        ((online, target, momentum),) = pairs
        expected = [
            momentum * slow.double() + (1 - momentum) * fast.double()
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True)
        ]
        update_targets(pairs)
        errors = [(p - q).abs().max().item() for p, q in zip(target.parameters(), expected, strict=True)]
        noted.append(("targets", max(errors)))

    monkeypatch.setattr(torch.optim.SGD, "step", noting_step)
    monkeypatch.setattr(loop, "update_targets", noting_update)
    return noted


def expected_rates(batch: int, steps_per_epoch: int, total: int, accumulate: int) -> list[float]:
    """base * batch / 256, a linear rise over the first epoch, then half a cosine; written out a second time."""
    peak = BASE_LR * batch / 256
    rise = [peak * (step + 1) / steps_per_epoch for step in range(steps_per_epoch)]
    fall = total - steps_per_epoch
    cosine = [peak * (1 + math.cos(math.pi * step / fall)) / 2 for step in range(fall)]
    return (rise + cosine)[accumulate - 1 :: accumulate]


@pytest.mark.parametrize(("accumulate", "micro_steps_per_epoch"), [(1, 5), (2, 4)])
def test_rates_and_momentum_follow_optimizer_steps(
    accumulate: int, micro_steps_per_epoch: int, events: list[tuple[str, Any]], tmp_path: Path
) -> None:
    batch, total = 8 * accumulate, micro_steps_per_epoch * tiny_recipe.EPOCHS
    train(tiny_recipe.recipe(batch_size=batch, accumulate=accumulate, optimizer=OPTIMIZER), tmp_path)
    assert [kind for kind, _ in events] == ["rate", "targets"] * (total // accumulate)
    rates = [value for kind, value in events if kind == "rate"]
    assert rates == pytest.approx(expected_rates(batch, micro_steps_per_epoch, total, accumulate), rel=1e-12)
    assert max(value for kind, value in events if kind == "targets") < 1e-6
    logged = {line["step"]: line["learning_rate"] for line in RunFolder(tmp_path).metrics()}
    assert [logged[step] for step in range(accumulate, total + 1, accumulate)] == rates


def test_an_accumulated_step_moves_weights_by_the_mean_gradient_of_its_parts(tmp_path: Path) -> None:
    recipe = tiny_recipe.recipe(batch_size=16, accumulate=2, optimizer=OPTIMIZER, epochs=1, executor="host")
    order = BatchOrder(num_images=tiny.IMAGES, batch_size=8, seed=recipe.seed)
    by_hand = tiny.begin(recipe, order)
    dataset = ViewDataset(SOURCE, recipe.views, order, EIGHT_BIT)
    for step in range(2):  # gradients of the parts add up in .grad
        views = canvases(dataset[step], recipe.views, by_hand.normalize)
        by_hand.method(views, by_hand.progress(step)).loss.backward()
    rate = BASE_LR * 16 / 256 * 2 / 4
    expected = [p.detach() - rate * p.grad / 2 for p in by_hand.method.query_network.parameters()]

    trained: list[torch.Tensor] = []

    def stop_after_one_step(pairs: list[Any]) -> None:
        if not trained:
            trained.extend(p.detach().clone() for p in pairs[0].online.parameters())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update_targets", stop_after_one_step)
        train(recipe, tmp_path)
    for found, wanted in zip(trained, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_a_batch_in_parts_takes_the_rate_of_the_whole() -> None:
    order = BatchOrder(num_images=40, batch_size=8, seed=0)
    whole, parts = (
        tiny.begin(tiny_recipe.recipe(batch_size=16, accumulate=n, optimizer=OPTIMIZER), order) for n in (1, 2)
    )
    assert max(map(whole.learning_rate, range(20))) == max(map(parts.learning_rate, range(16))) == BASE_LR / 16


def test_the_rate_may_drop_in_steps_and_the_decay_may_rise() -> None:
    optimizer = OptimizerConfig(
        name="adamw", base_lr=BASE_LR, drops=(1.0, 3.0), weight_decay=0.1, final_weight_decay=0.5
    )
    order = BatchOrder(num_images=40, batch_size=8, seed=0)
    state = tiny.begin(tiny_recipe.recipe(optimizer=optimizer), order)
    peak = BASE_LR * 8 / 256
    expected = [peak] * 5 + [peak / 10] * 10 + [peak / 100] * 5
    assert [state.learning_rate(step) for step in range(20)] == pytest.approx(expected)
    assert [state.weight_decay(step) for step in (0, 10)] == pytest.approx([0.1, 0.3])
    assert state.weight_decay(19) < 0.5


def test_a_rising_decay_and_a_clipped_gradient_reach_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[float, float, float]] = []
    step = torch.optim.SGD.step

    def noting_step(self: torch.optim.SGD, closure: Any = None) -> Any:
        result = step(self, closure)
        decaying, spared = self.param_groups
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        noted.append((decaying["weight_decay"], spared["weight_decay"], norm))
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", noting_step)
    optimizer = OptimizerConfig(
        weight_decay=0.1, final_weight_decay=0.3, decay_norm_and_bias=False, clip_norm=0.01, base_lr=0.1
    )
    state = train(tiny_recipe.recipe(optimizer=optimizer, epochs=1), tmp_path)
    assert [decay for decay, _, _ in noted] == [state.weight_decay(step) for step in range(5)]
    assert {spared for _, spared, _ in noted} == {0.0}
    assert max(norm for _, _, norm in noted) == pytest.approx(0.01, rel=1e-3)
