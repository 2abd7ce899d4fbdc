"""A run that was stopped, however, and continued ends as if it had not been stopped."""

import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import processes
import pytest
import tiny
import tiny_recipe

from smalti import api
from smalti.runs import RunFolder
from smalti.training.log import Log
from smalti.training.state import TrainState


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_photos(tmp_path_factory.mktemp("photos"))


def arguments(photos: Path, run: Path, workers: int, *more: str) -> list[str]:
    engine = ["--workers", str(workers), "--logger", "none", "--log-every", "1", "--checkpoint-every", "3"]
    return ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, *engine, *more]


@pytest.fixture(scope="module")
def straight(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tiny.without_drawing(tmp_path_factory.mktemp("straight"))
    process = processes.start(arguments(photos, run, workers=0), run / "printed.log")
    assert processes.wait(process) == 0, (run / "printed.log").read_text()
    assert [step for step, _ in tiny.losses_of(run)] == list(range(1, tiny.STEPS + 1))
    return run


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_killed_three_times_ends_as_if_it_had_not_been(
    workers: int, photos: Path, straight: Path, tmp_path: Path
) -> None:
    run, random = tiny.without_drawing(tmp_path / "run"), Random(workers)
    deaths = [
        partial(processes.die_after_lines, random.randint(1, 6), random.uniform(0, 0.02)),
        partial(processes.die_writing_checkpoint, random.randint(1, 2)),
        partial(processes.die_after_lines, random.randint(1, 6), random.uniform(0, 0.02)),
    ]
    for before in (*deaths, None):
        process = processes.start(arguments(photos, run, workers, "--resume"), tmp_path / "printed.log", before)
        expected = -signal.SIGKILL if before else 0
        assert processes.wait(process) == expected, (tmp_path / "printed.log").read_text()
    tiny.assert_same_run(run, straight)


DROPPING = replace(tiny_recipe.BACKBONE, options={**tiny_recipe.BACKBONE.options, "drop_path_rate": 0.5})


class StopError(Exception):
    pass


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Training raises at the end of a step, before that step is logged or saved."""
    log_step = Log.step

    def ending(self: Log, state: TrainState, values: Any) -> None:
        if state.next_step == step:
            raise StopError
        log_step(self, state, values)

    patch.setattr(Log, "step", ending)


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        pytest.param({"executor": "device"}, (4, 14), id="views made on the device"),
        pytest.param({"backbone": DROPPING}, (5,), id="paths dropped at random"),
        pytest.param({"batch_size": 16, "accumulate": 2}, (7, 11), id="between the parts of a batch"),
    ],
)
def test_a_run_that_raised_ends_as_if_it_had_not(
    changes: dict[str, Any], stops: tuple[int, ...], photos: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe.recipe(**changes)
    engine = replace(tiny.ENGINE, checkpoint_every=2)
    straight, run = (tiny.without_drawing(tmp_path / name) for name in ("straight", "run"))
    api.pretrain(photos, straight, recipe, engine=engine)
    for step in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(step, patch)
            with pytest.raises(StopError):
                api.pretrain(photos, run, recipe, engine=engine, resume=True)
    api.pretrain(photos, run, recipe, engine=engine, resume=True)
    tiny.assert_same_run(run, straight)


def test_a_run_stopped_between_its_last_two_files_leaves_both(
    photos: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    write = api.save_encoder

    def failing(folder: Path, backbone: Any, info: Any) -> None:
        if len(RunFolder(run).metrics()) == tiny.STEPS:
            raise StopError
        write(folder, backbone, info)

    monkeypatch.setattr(api, "save_encoder", failing)
    with pytest.raises(StopError):
        api.pretrain(photos, run, tiny_recipe.recipe(), engine=tiny.ENGINE)
    monkeypatch.setattr(api, "save_encoder", write)
    api.pretrain(photos, run, tiny_recipe.recipe(), engine=tiny.ENGINE, resume=True)
    tiny.assert_same_run(run, straight)


def test_resuming_a_finished_run_changes_nothing(photos: Path, straight: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}

    before = content()
    api.pretrain(photos, straight, tiny_recipe.recipe(), engine=tiny.ENGINE, resume=True)
    assert content() == before
