"""What happens beside the steps: logging, the progress bar, checkpoints and monitors."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from smalti.distributed import gather, gather_objects, world_size
from smalti.models.backbone import Backbone
from smalti.runs import RunFolder
from smalti.training.checkpoint import save_checkpoint
from smalti.training.module import Pretraining

Monitor = Callable[[Backbone], dict[str, float]]


class Logging(L.Callback):
    """Losses, rates and speed to metrics.jsonl, to Lightning's loggers and to the progress bar.

    What a step logs is averaged over all processes.

    Args:
        run: the run folder.
        every: steps between two lines.
    """

    def __init__(self, run: RunFolder, every: int) -> None:
        self._run, self._every = run, every
        self._bar = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[values]}"),
        )
        self._waited = 0.0
        self._last_end = self._last_log = time.perf_counter()
        self._logged_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = _pretraining(pl_module)
        self._logged_step = module.next_step
        self._last_end = self._last_log = time.perf_counter()
        if trainer.is_global_zero:
            self._task = self._bar.add_task("", total=module.total_steps, completed=module.next_step, values="")
            self._bar.start()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._last_end

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = _pretraining(pl_module)
        last = module.next_step == module.total_steps
        if trainer.is_global_zero:
            self._bar.advance(self._task)
        if module.next_step % self._every == 0 or last:
            self._log(trainer, module)
        self._last_end = time.perf_counter()

    def note(self, step: int, values: dict[str, float], trainer: L.Trainer) -> None:
        """Log values that did not come from a step, such as a probe's accuracy."""
        self._run.log(step, values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        self._show(values)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self._bar.console.print(f"step {step}: {shown}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._bar.stop()

    def _log(self, trainer: L.Trainer, module: Pretraining) -> None:
        means = gather(torch.stack([value.float() for value in module.logs.values()])[None]).mean(dim=0)
        values = dict(zip(module.logs, means.tolist(), strict=True))
        if not trainer.is_global_zero:
            return
        now = time.perf_counter()
        steps = max(1, module.next_step - self._logged_step)
        values["learning_rate"] = module.learning_rate(module.next_step - 1)
        values["epoch"] = module.next_step / module.steps_per_epoch
        values["images_per_second"] = steps * module.recipe.micro_batch / (now - self._last_log)
        values["data_wait"] = self._waited / (now - self._last_log)
        self._waited, self._last_log, self._logged_step = 0.0, now, module.next_step
        self._run.log(module.next_step, values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=module.next_step)
        self._show(values)

    def _show(self, values: dict[str, float]) -> None:
        shown = {name: values[name] for name in ("loss", "images_per_second", "data_wait") if name in values}
        if shown:
            text = f"loss {shown['loss']:.2f}  {shown['images_per_second']:.0f} images/s"
            if shown["data_wait"] > 0.1:
                text += f"  data {shown['data_wait']:.0%}"  # share of the time that steps waited for their batch
            self._bar.update(self._task, values=text)


class Saving(L.Callback):
    """A checkpoint at the end of an epoch if the last is a minute old, whenever it is ten minutes old, and at the end.

    Args:
        run: the run folder.
        every: steps between checkpoints in place of these times; 0 for the times.
        export: writes the encoder file of a backbone.
    """

    def __init__(self, run: RunFolder, every: int, export: Callable[[Backbone], object]) -> None:
        self._run, self._every, self._export = run, every, export
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = _pretraining(pl_module)
        if module.next_step % module.recipe.accumulate:
            return
        if self._is_due(module):
            self.save(trainer, module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.strategy.barrier("saved")  # no process goes on before the last files are there

    def save(self, trainer: L.Trainer, module: Pretraining) -> None:
        """Checkpoint and encoder, unless the run has left the finite numbers, which `Watching` will tell."""
        if trainer.is_global_zero and module.is_finite():
            # The checkpoint comes last: a run stopped between the two makes the encoder again.
            self._export(module.method.encoder())
            save_checkpoint(self._run.checkpoint, module, trainer.optimizers[0])
        self._saved_at = time.monotonic()

    def _is_due(self, module: Pretraining) -> bool:
        if module.next_step == module.total_steps:
            return True
        if self._every:
            return module.next_step % self._every == 0
        age = time.monotonic() - self._saved_at
        return age > 600 or (age > 60 and module.next_step % module.steps_per_epoch == 0)


class Watching(L.Callback):
    """Stops a run whose loss is no longer finite, keeps account of bad files, and lets monitors look at the backbone.

    Args:
        run: knows the last good checkpoint.
        record_bad: takes (name, reason) of images that could not be used.
        monitors: score the backbone.
        after: epochs, counted from 1, after which they do.
        logging: takes the scores.
        every: steps between two looks at the loss, each of which waits for the device and for all processes.
    """

    def __init__(
        self,
        run: RunFolder,
        record_bad: Callable[[Sequence[tuple[str, str]]], None],
        monitors: Sequence[Monitor],
        after: set[int],
        logging: Logging,
        every: int,
    ) -> None:
        self._run, self._record_bad, self._monitors, self._after = run, record_bad, monitors, after
        self._logging, self._every = logging, every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = _pretraining(pl_module)
        looks = module.next_step % self._every == 0 or module.next_step == module.total_steps
        if looks or world_size() == 1:
            self._record_bad(gather_objects(module.bad_images))
            module.bad_images = []
        if looks:
            module.check_finite(_last_good(self._run))
        epoch, rest = divmod(module.next_step, module.steps_per_epoch)
        if rest == 0 and epoch in self._after and trainer.is_global_zero:
            self._monitor(trainer, module)

    def _monitor(self, trainer: L.Trainer, module: Pretraining) -> None:
        backbone = module.method.encoder()
        was_training = backbone.training
        backbone.eval()
        with torch.no_grad():
            for monitor in self._monitors:
                self._logging.note(module.next_step, monitor(backbone), trainer)
        backbone.train(was_training)


def _last_good(run: RunFolder) -> str:
    return str(run.checkpoint) if run.checkpoint.exists() else "none, since the run had not saved one yet"


def _pretraining(module: L.LightningModule) -> Pretraining:
    if not isinstance(module, Pretraining):
        raise TypeError(f"got {type(module).__name__}; expected Pretraining")
    return module
