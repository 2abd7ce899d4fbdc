"""Every benchmark that needs no GPU, each in a process of its own: `python -m benchmarks.run`."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import tyro

from benchmarks import knn_cpu, loader_memory, step_cpu, systems_cpu, views_cpu
from benchmarks.figures import Figure, save, show


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure, print a table, and write the figures.

    Attributes:
        quick: a rough look, in a minute or two.
        data: folder of photographs to make views of, besides the embedded ones.
        out: where the figures go.
        only: names of the benchmarks to run; all unless given.
    """

    quick: bool = False
    data: Path | None = None
    out: Path = Path("results/bench_cpu.json")
    only: tuple[str, ...] = ()


def run(settings: Settings) -> dict[str, list[Figure]]:
    """The figures by benchmark."""
    quick = settings.quick
    jobs = {"views": partial(views_cpu.measure, quick=quick)}
    if settings.data:
        jobs["views, own photographs"] = partial(views_cpu.measure, settings.data, quick=quick)
    jobs |= {
        "step": partial(step_cpu.measure, quick=quick),
        "systems": partial(systems_cpu.measure, quick=quick),
        "knn": partial(knn_cpu.measure, quick=quick),
        "loader memory": partial(loader_memory.measure, quick=quick),
    }
    unknown = set(settings.only) - set(jobs)
    if unknown:
        raise SystemExit(f"got --only {' '.join(unknown)}; expected some of {', '.join(jobs)}")
    figures = {}
    for name in settings.only or jobs:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            figures[name] = pool.submit(jobs[name]).result()
        print(name)
        show(figures[name])
    return figures


if __name__ == "__main__":
    settings = tyro.cli(Settings)
    save(settings.out, run(settings), quick=settings.quick)
    print(f"written to {settings.out}")
