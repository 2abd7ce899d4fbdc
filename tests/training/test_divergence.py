"""A run that leaves the finite numbers stops, says where, and has kept its last good weights."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_recipe
import torch
from helpers import EIGHT_BIT, ListSource, textured

from smalti import cli
from smalti.errors import UserError
from smalti.methods.method import Step
from smalti.methods.moco import MoCo
from smalti.models.checkpoints import load_encoder
from smalti.runs import RunFolder
from smalti.training import loop
from smalti.training.fit import fit
from smalti.training.loop import train_step
from smalti.training.state import TrainState


def train(run: Path, log_every: int = 1) -> None:
    engine = replace(tiny.ENGINE, log_every=log_every)
    source = ListSource(textured(tiny.IMAGES, side=40))
    fit(source, RunFolder(run), tiny_recipe.recipe(), EIGHT_BIT, engine=engine, export=lambda backbone: None)


def assert_finite(state: Any) -> None:
    tensors = [value for value in state["method"].values() if value.is_floating_point()]
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("log_every", [1, 4])  # 4: a checkpoint is due before the loss is looked at
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_step_and_the_last_good_checkpoint_are_named(
    value: float, log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MoCo.forward

    def spoilt(self: MoCo, views: Any, progress: Any) -> Step:
        loss, logs = forward(self, views, progress)
        return Step(loss * value if progress.step == 4 else loss, logs)

    monkeypatch.setattr(MoCo, "forward", spoilt)
    with pytest.raises(UserError, match=r"loss that is NaN or infinite at step 5;.* checkpoint is .*/last.ckpt"):
        train(tmp_path, log_every)
    state = tiny.checkpoint_of(tmp_path)
    assert state["next_step"] == 3
    assert_finite(state)


def test_weights_are_not_saved_when_only_their_last_step_was_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(state: TrainState, views: Any, step: int, *rest: Any) -> Step:
        result = train_step(state, views, step, *rest)
        if step + 1 == tiny.STEPS:
            next(state.method.parameters()).data.fill_(math.nan)
        return result

    monkeypatch.setattr(loop, "train_step", spoilt)
    with pytest.raises(UserError, match=f"weights that are NaN or infinite at step {tiny.STEPS};"):
        train(tmp_path)
    assert tiny.checkpoint_of(tmp_path)["next_step"] == tiny.STEPS // 3 * 3


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MoCo, "forward", lambda self, *_: Step(next(self.parameters()).sum() * math.nan, {}))
    with pytest.raises(UserError, match="the last good checkpoint is none"):
        train(tmp_path)
    assert not RunFolder(tmp_path).checkpoint.exists()


def test_a_rate_that_explodes_ends_with_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, run = tiny.write_photos(tmp_path / "photos", side=24), tiny.without_drawing(tmp_path / "run")
    settings = "--workers 0 --logger none --log-every 1 --checkpoint-every 1 --optimizer.base-lr 1e25"
    line = ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, *settings.split()]
    assert cli.main(line) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    found = re.fullmatch(r"smalti: got .* NaN or infinite at step (\d+); expected .*; lower .* is (.*)", last)
    assert found, last
    first_bad = next(step for step, loss in tiny.losses_of(run) if not math.isfinite(loss))
    assert int(found[1]) == first_bad
    state = torch.load(found[2], weights_only=True)
    assert 0 < state["next_step"] < first_bad
    assert_finite(state)
    encoder = load_encoder(run)
    assert all(weights.isfinite().all() for weights in encoder.parameters())
