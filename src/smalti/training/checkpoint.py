"""Checkpoints: everything that a run needs to continue as if it had not stopped.

Queue, running statistics and momentum weights are in the method's state dictionary; the order of the images, the views,
the schedules and all random numbers follow from the number of the next step.
"""

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from smalti.distributed import rank
from smalti.errors import UserError
from smalti.files import DAMAGED_ZIP, atomic
from smalti.models.backbone import Backbone
from smalti.runs import RunFolder
from smalti.training.state import TrainState
from smalti.training.watch import Watch

_AGE, _OLD_AGE = 60, 600  # seconds


class Saver:
    """A checkpoint at the end of an epoch if the last is a minute old, whenever it is ten minutes old, and at the end.

    Args:
        run: the run folder.
        every: steps between checkpoints in place of these times; 0 for the times.
        export: writes the encoder file of a backbone.
        watch: forbids checkpoints of a run that has left the finite numbers.
    """

    def __init__(self, run: RunFolder, every: int, export: Callable[[Backbone], object], watch: Watch) -> None:
        self._run, self._every, self._export, self._watch = run, every, export, watch
        self._saved_at, self._saved_step = time.monotonic(), -1

    def step(self, state: TrainState) -> None:
        """Save what the step left, if a checkpoint is due."""
        if self._is_due(state):
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Encoder and checkpoint, unless the run has left the finite numbers."""
        if self._saved_step == state.next_step:
            return
        if rank() == 0 and self._watch.allows_saving(state):
            # The checkpoint comes last: a run stopped between the two makes the encoder again.
            self._export(state.method.encoder())
            if self._run.checkpoint.exists():
                self._run.checkpoint.replace(self._run.previous_checkpoint)
            save_checkpoint(self._run.checkpoint, state)
        self._saved_at, self._saved_step = time.monotonic(), state.next_step

    def _is_due(self, state: TrainState) -> bool:
        if state.next_step % state.recipe.accumulate:
            return False  # gradients of half a batch are not saved
        if state.finished or self._every:
            return state.finished or state.next_step % self._every == 0
        age = time.monotonic() - self._saved_at
        return age > _OLD_AGE or (age > _AGE and state.next_step % state.steps_per_epoch == 0)


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Write the run's state; the file appears whole or not at all."""
    saved = {
        "next_step": state.next_step,
        "method": state.method.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    with atomic(path) as temporary:
        try:
            torch.save(saved, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(str(error).partition("\n")[0]) from error


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Put the state where the checkpoint left off.

    Raises:
        UserError: the file is damaged, or not a checkpoint of this recipe; where the one before it is whole, it is
            named.
    """
    if not _is_whole(path):
        before = path.with_name(RunFolder.PREVIOUS)
        remedy = f"rename {before} to {path.name}" if _is_whole(before) else "give another --out"
        raise UserError(f"checkpoint {path}, which is damaged", "a whole file", remedy)
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state.method.load_state_dict(saved["method"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.next_step = saved["next_step"]
    except (RuntimeError, ValueError, KeyError, OSError, EOFError, UnpicklingError) as error:
        # torch's advice for what it cannot unpickle is to run the code in it.
        reason = "damaged" if isinstance(error, UnpicklingError) else (str(error) or type(error).__name__)
        raise UserError(
            f"checkpoint {path}: {reason.splitlines()[0]}", "a checkpoint of this recipe", "give another --out"
        ) from error


def _is_whole(path: Path) -> bool:
    """Every byte is what was written, as the checksums in the file say; torch does not look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except DAMAGED_ZIP:
        return False
