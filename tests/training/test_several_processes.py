"""Two processes learn what one learns, stop together, and continue as if they had not stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import processes
import pytest
import tiny
import torch

BATCH, EPOCHS = 16, 5  # 2 steps an epoch
# At 32 px a map has 2 x 2 cells; at 16 a group's statistics come from 4 numbers, and a rounding error grows.
SETTINGS = (
    f"--size 32 --batch-size {BATCH} --block 4 --epochs {EPOCHS} --executor host --workers 0 --logger none".split()
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_photos(tmp_path_factory.mktemp("photos"))


def arguments(photos: Path, run: Path, *more: str) -> list[str]:
    engine = ["--log-every", "1", "--checkpoint-every", "3"]
    return ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, *SETTINGS, *engine, *more]


def run_two(line: list[str], log: Path, before: Callable[[], None] | None = None) -> list[int]:
    """Exit codes of two processes, the first with `before`; `log` has what the first prints."""
    world = processes.world_of(2)
    both = [
        processes.start([*line, "--devices", "2"], path, hook, rank, world)
        for rank, (path, hook) in enumerate(((log, before), (log.with_name("second.log"), None)))
    ]
    return [processes.wait(process) for process in both]


@pytest.fixture(scope="module")
def straight(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happened to."""
    run = tiny.without_drawing(tmp_path_factory.mktemp("two"))
    assert run_two(arguments(photos, run), run / "printed.log") == [0, 0], (run / "printed.log").read_text()
    return run


def test_two_processes_learn_what_one_learns(photos: Path, straight: Path, tmp_path: Path) -> None:
    one = tiny.without_drawing(tmp_path / "one")
    process = processes.start(arguments(photos, one), tmp_path / "printed.log")
    assert processes.wait(process) == 0, (tmp_path / "printed.log").read_text()

    assert [step for step, _ in tiny.losses_of(straight)] == list(range(1, 1 + EPOCHS * 2))
    found, expected = ([loss for _, loss in tiny.losses_of(run)] for run in (straight, one))
    assert found == pytest.approx(expected, rel=1e-5)
    found, expected = (tiny.checkpoint_of(run)["method"] for run in (straight, one))
    local = ("running_mean", "running_var", "num_batches_tracked")  # of the images that a process saw
    for name in (name for name in expected if not name.endswith(local)):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert found["queue.position"] == EPOCHS * 2 * BATCH % 32


def test_two_processes_of_which_one_is_killed_end_and_continue(photos: Path, straight: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    killed, survivor = run_two(
        arguments(photos, run), tmp_path / "printed.log", partial(processes.die_after_lines, 5, 0.01)
    )
    assert killed == -signal.SIGKILL
    assert survivor == 2  # it does not wait for the dead, and says who is
    told = (tmp_path / "second.log").read_text().splitlines()[-1]
    assert told.startswith("smalti: got process 0 ended, so process 1 of 2 cannot go on")

    # This time as a user starts it: the command launches its own second process.
    command = [sys.executable, "-m", "smalti.cli", *arguments(photos, run, "--resume", "--devices", "2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, timeout=300, check=True)
    tiny.assert_same_run(run, straight)


def test_the_second_process_waits_for_the_files_of_the_first(photos: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    line = arguments(photos, run, "--epochs", "1")
    assert run_two(line, tmp_path / "printed.log", processes.write_late) == [0, 0]
    assert tiny.checkpoint_of(run)["next_step"] == 2


def test_a_loss_that_is_nan_stops_both_processes_with_one_line(photos: Path, tmp_path: Path) -> None:
    line = arguments(photos, tmp_path / "run", "--optimizer.base-lr", "1e30")
    tiny.without_drawing(tmp_path / "run")
    assert run_two(line, tmp_path / "printed.log") == [2, 2]
    printed = (tmp_path / "printed.log").read_text()
    assert printed.count("smalti: got ") == 1
    assert "Traceback" not in printed


def test_a_bad_file_seen_by_both_processes_is_named_once(tmp_path: Path) -> None:
    photos = tiny.write_photos(tmp_path / "photos")
    bad = photos / "07.png"
    bad.write_bytes(bad.read_bytes()[:200])
    run = tiny.without_drawing(tmp_path / "run")
    assert run_two(arguments(photos, run), tmp_path / "printed.log") == [0, 0], (tmp_path / "printed.log").read_text()
    assert (run / "skipped.txt").read_text() == "07.png\ttruncated PNG\n"
