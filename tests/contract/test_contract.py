"""What every method promises on every composition and every kind of backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract_helpers import (
    BACKBONES,
    BATCH,
    COMPOSITIONS,
    METHODS,
    STANDARD,
    VARIANTS,
    System,
    classes_below,
    systems,
)
from helpers import EIGHT_BIT
from timm.layers import DropPath

from smalti.methods.method import MethodConfig
from smalti.runs import RunFolder
from smalti.testing import Images, check_backbone, check_composition, check_method
from smalti.testing.method import two_steps
from smalti.testing.processes import run_in_processes
from smalti.training.fit import Engine, fit
from smalti.training.log import Log
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.plan import Composition

SYSTEMS = systems()
TOGETHER = [*SYSTEMS, *(System(name, "mosaic", "resnet") for name in VARIANTS)]


def test_every_method_and_every_composition_is_here() -> None:
    assert {type(config) for config in (METHODS | VARIANTS).values()} == classes_below(MethodConfig)
    assert {type(view) for view in (STANDARD, *COMPOSITIONS.values())} == classes_below(Composition)


@pytest.mark.parametrize("composition", [STANDARD, *COMPOSITIONS.values()], ids=["standard", *COMPOSITIONS])
def test_a_composition_keeps_its_promises(composition: Composition) -> None:
    check_composition(composition)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_keeps_its_promises(backbone: str) -> None:
    check_backbone(BACKBONES[backbone])


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_a_method_keeps_its_promises(system: System) -> None:
    check_method(system.method_config, system.views, system.backbone_config, BATCH)


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_as_if_it_had_not_been(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the engine: stopped in the middle of an epoch and continued from its own checkpoint."""
    system = System(method, "montage" if method == "mcl of two levels" else "mosaic", "resnet")
    recipe = Recipe(
        name=str(system),
        views=system.views,
        backbone=system.backbone_config,
        method=system.method_config,
        epochs=2,  # of three steps
        batch_size=BATCH,
        block=4,
        precision="32",
    )
    engine = Engine(workers=0, logger="none", log_every=1, checkpoint_every=1, score_every=-1)

    def run(name: str) -> dict[str, Any]:
        folder, source = RunFolder(tmp_path / name), Images(3 * BATCH, classes=3)
        state = fit(source, folder, recipe, EIGHT_BIT, engine=engine, export=lambda backbone: None, resume=True)
        return state.method.state_dict()

    straight = run("straight")
    log_step = Log.step

    def stopping(self: Log, state: TrainState, values: Any) -> None:
        if state.next_step == 5:  # the second of three steps of the second epoch; the fourth is saved
            raise StopError
        log_step(self, state, values)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "step", stopping)
        with pytest.raises(StopError):
            run("stopped")
    resumed = run("stopped")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def act() -> dict[str, Any]:
    """Two steps of every system on its share of the batch: their losses, and what the method then holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DropPath, "forward", lambda self, x: x)  # which images lose a path is each process's own chance
        return {
            str(system): two_steps(system.method_config, system.views, system.backbone_config, BATCH, classes=3)
            for system in TOGETHER
        }


@pytest.fixture(scope="module")
def alone_and_together() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (alone,) = run_in_processes(act, 1, timeout=900)
    return alone, run_in_processes(act, 2, timeout=900)


@pytest.mark.parametrize("system", map(str, TOGETHER))
def test_two_processes_do_what_one_does(system: str, alone_and_together: Any) -> None:
    alone, together = alone_and_together
    losses, state = alone[system]
    for found, held in (one[system] for one in together):
        torch.testing.assert_close(found, losses, atol=1e-9, rtol=1e-7)
        for name, expected in state.items():
            torch.testing.assert_close(held[name], expected, atol=1e-8, rtol=1e-6, msg=name)
