"""What a run tells of itself: metrics.jsonl, TensorBoard or Weights & Biases, and the progress bar."""

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

import torch
from lightning_fabric.loggers import TensorBoardLogger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from smalti.distributed import gather, rank
from smalti.errors import UserError
from smalti.runs import RunFolder
from smalti.training.state import TrainState
from smalti.views.batch import Batch

Tracker = Literal["tensorboard", "wandb", "none"]


class Log:
    """Losses, rates and speed of the steps; a context in which the progress bar is shown.

    What a step logs is averaged over all processes; only the first writes.

    Args:
        run: the run folder.
        state: where the run begins.
        every: steps between two lines.
        tracker: what gets them too, besides metrics.jsonl.
    """

    def __init__(self, run: RunFolder, state: TrainState, every: int, tracker: Tracker = "none") -> None:
        self._run, self._every = run, every
        self._writes = rank() == 0
        self._track = _tracker(tracker, run) if self._writes else _untracked
        self._bar = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[values]}"),
            disable=not self._writes,
        )
        self._task = self._bar.add_task("", total=state.total_steps, completed=state.next_step, values="")
        self._waited, self._last_log, self._logged_step = 0.0, time.perf_counter(), state.next_step

    def __enter__(self) -> "Log":
        self._last_log = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches; the time that they are waited for is logged."""
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def step(self, state: TrainState, values: Mapping[str, Tensor]) -> None:
        """Count a step, and log its values, scalars, if it is its turn."""
        self._bar.advance(self._task)
        if state.next_step % self._every and not state.finished:
            return
        means = gather(torch.stack([value.float() for value in values.values()])[None]).mean(dim=0)
        now = time.perf_counter()
        seconds, steps = now - self._last_log, max(1, state.next_step - self._logged_step)
        logged = dict(zip(values, means.tolist(), strict=True)) | {
            "learning_rate": state.learning_rate(state.next_step - 1),
            "epoch": state.next_step / state.steps_per_epoch,
            "images_per_second": steps * state.recipe.micro_batch / seconds,
            "data_wait": self._waited / seconds,
        }
        self._waited, self._last_log, self._logged_step = 0.0, now, state.next_step
        self._write(state.next_step, logged)
        text = f"loss {logged['loss']:.2f}  {logged['images_per_second']:.0f} images/s"
        if logged["data_wait"] > 0.1:
            text += f"  data {logged['data_wait']:.0%}"  # share of the time that steps waited for their batch
        self._bar.update(self._task, values=text)

    def note(self, step: int, values: dict[str, float]) -> None:
        """Log values that did not come from a step, such as kNN accuracy."""
        self._write(step, values)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self._bar.console.print(f"step {step}: {shown}")

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self._writes:
            self._run.log(step, values)
            self._track(values, step)


def _tracker(name: Tracker, run: RunFolder) -> Callable[[dict[str, float], int], Any]:
    """What takes values and a step."""
    if name == "tensorboard":
        return TensorBoardLogger(run.path, name="", version="tensorboard").log_metrics
    if name == "wandb":
        if importlib.util.find_spec("wandb") is None:
            raise UserError("--logger wandb without the package", "wandb installed", "pip install 'smalti[wandb]'")
        import wandb

        tracked = wandb.init(name=run.path.name, dir=run.path)
        return lambda values, step: tracked.log(values, step=step)
    return _untracked


def _untracked(values: dict[str, float], step: int) -> None:
    return
