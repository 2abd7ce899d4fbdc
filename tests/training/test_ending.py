"""A run ends as its user or scheduler expects: by what code, with what line, and leaving what."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import processes
import pytest
import tiny

from smalti import cli
from smalti.errors import UserError
from smalti.runs import RunFolder

SETTINGS = ["--workers", "0", "--logger", "none", "--log-every", "1", "--checkpoint-every", "1000"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_photos(tmp_path_factory.mktemp("photos"))


def line_for(photos: Path, run: Path, *more: str) -> list[str]:
    return ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, *SETTINGS, *more]


def after_lines(count: int, act: Callable[[], None]) -> None:
    """Have this process do something when it has logged so many lines."""
    log, lines = RunFolder.log, 0

    def counting(*args: object) -> None:
        nonlocal lines
        log(*args)  # type: ignore[arg-type]
        lines += 1
        if lines == count:
            act()

    RunFolder.log = counting  # type: ignore[method-assign, assignment]


def signaled(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)], ids=str
)
def test_a_signal_ends_a_run_after_the_step_it_is_in(
    number: signal.Signals, code: int, workers: str, photos: Path, tmp_path: Path
) -> None:
    run, log = tiny.without_drawing(tmp_path / "run"), tmp_path / "printed.txt"
    line = line_for(photos, run, "--workers", workers)
    process = processes.start(line, log, partial(after_lines, 3, partial(signaled, number)))
    assert processes.wait(process) == code
    last = log.read_text().splitlines()[-1]
    assert (
        last
        == f"smalti: stopped by {number.name} after step 3 of {tiny.STEPS}; the same command with --resume continues"
    )
    assert tiny.checkpoint_of(run)["next_step"] == 3
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    assert processes.wait(processes.start([*line, "--resume"], log)) == 0
    assert tiny.checkpoint_of(run)["next_step"] == tiny.STEPS


def test_a_second_signal_ends_it_at_once(photos: Path, tmp_path: Path) -> None:
    run, log = tiny.without_drawing(tmp_path / "run"), tmp_path / "printed.txt"
    both = partial(after_lines, 3, partial(signaled, signal.SIGINT, signal.SIGINT))
    assert processes.wait(processes.start(line_for(photos, run), log, both)) == 130
    assert "stopped by SIGINT" in log.read_text().splitlines()[-1]
    assert not RunFolder(run).checkpoint.exists()


def test_a_signal_before_the_first_step_ends_in_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("smalti.api.measure", lambda source: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(line_for(photos, tmp_path / "run")) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("smalti: stopped by SIGTERM")
    assert signal.getsignal(signal.SIGTERM) == before


def test_two_runs_do_not_write_to_one_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    with RunFolder(run).locked():
        assert cli.main(line_for(photos, run)) == 2
        assert cli.main(line_for(photos, run, "--resume")) == 2
        assert capsys.readouterr().err.count("which another run is writing") == 2
    assert cli.main(line_for(photos, run)) == 0


def test_the_lock_of_a_killed_run_is_open(photos: Path, tmp_path: Path) -> None:
    run, log = tiny.without_drawing(tmp_path / "run"), tmp_path / "printed.txt"
    killed = processes.start(line_for(photos, run), log, partial(processes.die_after_lines, 2, 0.0))
    assert processes.wait(killed) == -signal.SIGKILL
    assert cli.main(line_for(photos, run, "--resume")) == 0


@pytest.mark.parametrize(
    "left",
    [{"RANK": "3"}, {"LOCAL_RANK": "1"}, {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, {"NODE_RANK": "1"}],
    ids=lambda left: "-".join(left),
)
def test_what_a_scheduler_left_in_the_environment_does_not_concern_a_run_of_one_process(
    left: dict[str, str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    run = tiny.without_drawing(tmp_path / "run")
    assert cli.main(line_for(photos, run, "--epochs", "1")) == 0
    assert (run / "recipe.json").exists()
    assert cli.main(line_for(photos, run, "--epochs", "1")) == 2


def test_torchruns_number_of_processes_must_be_that_of_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = processes.world_of(2)
    for name, value in (world | {"RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    assert cli.main(line_for(photos, tiny.without_drawing(tmp_path / "run"))) == 2
    assert "give --devices 2" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_workers_and_the_main_process_complain_alike(workers: str, photos: Path, tmp_path: Path) -> None:
    run, log = tiny.without_drawing(tmp_path / "run"), tmp_path / "printed.txt"
    line = line_for(photos, run, "--workers", workers, "--executor", "host")
    assert processes.wait(processes.start(line, log, break_reading)) == 2
    printed = log.read_text()
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("smalti: got ")


def break_reading() -> None:
    """Have every image become unreadable once the pixels have been measured."""
    from smalti import api

    measure = api.measure

    def measuring(source: object) -> object:
        result = measure(source)  # type: ignore[arg-type]

        def gone(index: int) -> None:
            raise UserError("a folder that has gone", "the images", "bring it back")

        source.read = gone  # type: ignore[attr-defined]
        return result

    api.measure = measuring  # type: ignore[assignment]


def test_a_script_without_a_main_guard_says_so(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        "from smalti import Engine, pretrain\n"
        f"sys.path.insert(0, {str(Path(tiny.RECIPE_FILE).parent)!r})\n"
        "import tiny_recipe\n"
        "engine = Engine(workers=1, logger='none', score_every=-1)\n"
        f"pretrain({str(photos)!r}, {str(tmp_path / 'run')!r}, tiny_recipe.recipe(executor='host'), engine=engine)\n"
    )
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, env=environment)
    assert ended.returncode == 1
    assert "__main__" in ended.stderr.splitlines()[-1]
    assert time.monotonic() - start < 200


WRITES: dict[str, Callable[[Path, Path], list[str]]] = {
    "pretrain": lambda photos, out: line_for(photos, out / "run"),
    "views": lambda photos, out: ["views", str(photos), "--recipe", tiny.RECIPE_FILE, "--out", str(out / "v.png")],
    "embed": lambda photos, out: ["embed", "random:resnet18", str(photos), "--out", str(out / "f.npz")],
    "export": lambda photos, out: ["export", "random:resnet18", "--to", "timm", "--out", str(out / "e.safetensors")],
    "recipes": lambda photos, out: ["recipes", "--json", str(out / "recipes.json")],
}


@pytest.mark.parametrize("command", WRITES)
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_half_written(
    command: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the last byte does not get to the disk."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(WRITES[command](photos, tmp_path)) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


def test_a_folder_deleted_during_a_run_is_told_in_one_line(photos: Path, tmp_path: Path) -> None:
    run, log = tiny.without_drawing(tmp_path / "run"), tmp_path / "printed.txt"
    assert (
        processes.wait(
            processes.start(line_for(photos, run), log, partial(after_lines, 2, partial(shutil.rmtree, run)))
        )
        == 2
    )
    assert "could not be written" in log.read_text().splitlines()[-1]


@pytest.mark.parametrize("name", ["thesis.tex", "encoder.safetensors", "checkpoints/last.ckpt", "metrics.jsonl"])
def test_a_folder_with_files_but_no_recipe_is_left_alone(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for more in ((), ("--resume",)):
        assert cli.main(line_for(photos, tmp_path / "out", *more)) == 2
        assert Path(name).name in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_a_lost_encoder_of_a_finished_run_is_exported_again(photos: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    assert cli.main(line_for(photos, run)) == 0
    expected = tiny.encoder_of(run)
    (run / "encoder.safetensors").unlink()
    assert cli.main(line_for(photos, run, "--resume")) == 0
    tiny.assert_same_state(tiny.encoder_of(run), expected)


def test_files_have_the_mode_of_the_umask(photos: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    before = os.umask(0o027)
    try:
        assert cli.main(line_for(photos, run, "--epochs", "1")) == 0
    finally:
        os.umask(before)
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "views.png")]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}
