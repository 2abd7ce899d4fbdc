"""Everything that is to be measured on a GPU, in stages that survive being cut off.

    python -m benchmarks.gpu_suite --archive cifar10.tar.gz --budget-seconds 540

Each finished stage is saved and skipped the next time. `--smoke` runs all of it at a tiny scale on any machine.
"""

import os
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import tyro

from benchmarks.gpu import checks, knn, large_step, quality, small_runs
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stages import BudgetSpent, Stages
from smalti.images.photos import photos

_FILE = "bench_gpu.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, with what, and for how long.

    Attributes:
        out: folder for the results; $OUT or results/gpu unless given.
        earlier: results to continue where `out` has none.
        data: an unpacked CIFAR-10, `train/CLASS/*` and `test/CLASS/*`.
        archive: or its archive, unpacked into `runs`.
        runs: folder for run folders and data; a place that outlives the call lets a half-done run go on.
        budget_seconds: after which to stop; what is not finished is taken up by the next call.
        stages: which groups.
        epochs: of a quality run.
        seeds: of the quality runs.
        smoke: tiny sizes, to see that everything runs.
    """

    out: Path = Path(os.environ.get("OUT", "results/gpu"))
    earlier: Path = Path("results/gpu") / _FILE
    data: Path | None = None
    archive: Path | None = None
    runs: Path = Path(tempfile.gettempdir()) / "smalti-gpu-suite"
    budget_seconds: float = 560.0
    stages: tuple[Literal["checks", "speed", "quality"], ...] = ("checks", "speed", "quality")
    epochs: int = 200
    seeds: tuple[int, ...] = (0, 1, 2)
    smoke: bool = False


def main(settings: Settings) -> None:
    """Run what is not done."""
    if settings.smoke:  # kept apart, so that no real stage is taken for done
        scale, stages = Scale.smoke(), Stages(settings.out / f"smoke_{_FILE}", None, settings.budget_seconds)
    else:
        scale, stages = Scale(), Stages(settings.out / _FILE, settings.earlier, settings.budget_seconds)
    try:
        for group in settings.stages:
            _GROUPS[group](stages, settings, scale)
        print("all done")
    except BudgetSpent:
        print("out of time; call again to go on")
    finally:
        stages.results["quality"] = quality.means(stages.results, settings.epochs)
        stages.save()


def _checks(stages: Stages, _settings: Settings, scale: Scale) -> None:
    stages.run("checks/executors agree", partial(checks.executors, scale))
    for name in quality.RECIPES:
        stages.run(f"checks/steps of {name}", partial(checks.steps, name, scale))
    stages.run("checks/split batch normalization", partial(checks.split_batch_norm_groups, scale))
    stages.run("checks/resume", partial(checks.resume, scale))


def _speed(stages: Stages, settings: Settings, scale: Scale) -> None:
    stages.run("speed/large step", partial(large_step.large_step, scale))
    stages.run("speed/knn", partial(knn.knn, scale))
    data = _data(settings)
    for name in ("mosrep_moco_small", "moco_v2_multicrop_small", "moco_v2_small"):
        stages.run(f"speed/{name}", partial(small_runs.pretraining_speed, name, data, scale))
    stages.run("speed/lightly", partial(small_runs.lightly_speed, data, scale, 2.0 if settings.smoke else 60.0))


def _quality(stages: Stages, settings: Settings, scale: Scale) -> None:
    data, epochs = _data(settings), settings.epochs
    runs = [(name, seed) for seed in settings.seeds for name in quality.MOSREP]  # each once before any a second time
    runs += [(name, settings.seeds[0]) for name in quality.SYSTEMS]
    for name, seed in runs:
        stages.run(
            f"quality/{name}/{epochs} epochs/seed {seed}",
            partial(quality.one_run, name, seed, epochs, data, settings.runs, scale),
        )


_GROUPS = {"checks": _checks, "speed": _speed, "quality": _quality}


def _data(settings: Settings) -> Path:
    if settings.data:
        return settings.data
    if settings.archive:
        return _unpacked(settings.archive, settings.runs / "data")
    if settings.smoke:
        return _photographs(settings.runs / "photos")
    raise SystemExit("give --data FOLDER or --archive FILE of CIFAR-10")


def _unpacked(archive: Path, folder: Path) -> Path:
    """The folder in the archive that has `train` in it."""
    if not folder.exists():
        partly = folder.with_name(folder.name + ".partly")
        with tarfile.open(archive) as file:
            file.extractall(partly, filter="data")
        partly.rename(folder)
    return next(path.parent for path in sorted(folder.rglob("train")) if path.is_dir())


def _photographs(folder: Path) -> Path:
    """A few of the embedded patches as files, where there is no CIFAR-10."""

    for split in ("train", "test"):
        source = photos(split, size=32, per_class_train=2, per_class_test=1)
        assert source.labels is not None
        for index, label in enumerate(source.labels):
            path = folder / split / source.class_names[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), source.read(index)[..., ::-1])
    return folder


if __name__ == "__main__":
    main(tyro.cli(Settings))
