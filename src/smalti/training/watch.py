"""A watch on the run: losses that are not finite, files that cannot be used, and scores on the way."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smalti.distributed import gather, gather_objects, rank, world_size
from smalti.errors import UserError
from smalti.images.ledger import BadFiles
from smalti.models.backbone import Backbone
from smalti.models.batch_norm import average_statistics
from smalti.runs import RunFolder
from smalti.training.log import Log
from smalti.training.state import TrainState

Monitor = Callable[[Backbone], dict[str, float]]


class Watch:
    """Stops a run whose numbers are no longer finite, accounts for bad files, and lets monitors score the backbone.

    Args:
        run: knows the last good checkpoint.
        ledger: of bad files.
        log: takes the scores.
        monitors: score the backbone.
        epochs: counted from 1, after which they do.
        every: steps between two looks at the loss, each of which waits for the device and for all processes.
    """

    def __init__(
        self, run: RunFolder, ledger: BadFiles, log: Log, monitors: Sequence[Monitor], epochs: set[int], every: int
    ) -> None:
        self._run, self._ledger, self._log = run, ledger, log
        self._monitors, self._epochs, self._every = monitors, epochs, every
        self._first_bad_step: Tensor | None = None
        self._bad_files: list[tuple[str, str]] = []

    def step(self, state: TrainState, loss: Tensor, bad_files: Sequence[tuple[str, str]]) -> None:
        """Look at the step that was just taken.

        Raises:
            UserError: the loss or the weights are not finite, or too many files are bad.
        """
        self._note(loss, state.next_step)
        self._bad_files += bad_files
        looks = state.next_step % self._every == 0 or state.finished
        if looks or world_size() == 1:
            self._ledger.merge(gather_objects(self._bad_files))
            self._bad_files = []
        if looks:
            average_statistics(state.method)
            self._check_finite(state)
        epoch, rest = divmod(state.next_step, state.steps_per_epoch)
        if rest == 0 and epoch in self._epochs and rank() == 0:
            self._score(state)

    def agrees_to_end(self, state: TrainState, signal: int) -> bool:
        """Whether this process, or any of several, was asked to end by a signal, and a whole batch has been learned.

        Several processes agree every few steps, when they wait for each other anyway.
        """
        if state.next_step % state.recipe.accumulate or state.finished:
            return False
        if world_size() == 1:
            return signal > 0
        return state.next_step % self._every == 0 and any(gather_objects([signal]))

    def allows_saving(self, state: TrainState) -> bool:
        """Whether all losses of this process have been finite, and all weights are."""
        return (self._first_bad_step is None or int(self._first_bad_step) < 0) and state.is_finite()

    def _note(self, loss: Tensor, number: int) -> None:
        # On the device, so that no step waits for it.
        first = loss.new_full((), -1, dtype=torch.long) if self._first_bad_step is None else self._first_bad_step
        self._first_bad_step = torch.where(~loss.detach().isfinite() & (first < 0), number, first)

    def _check_finite(self, state: TrainState) -> None:
        """Agreed over all processes: they stop together. Steps are counted from 1, as in metrics.jsonl."""
        assert self._first_bad_step is not None
        bad = gather(self._first_bad_step[None])
        bad = bad[bad >= 0]
        if len(bad) == 0 and state.is_finite():
            return
        what, step = ("a loss that is", int(bad.min())) if len(bad) else ("weights that are", state.next_step)
        saved = self._run.checkpoint
        last_good = str(saved) if saved.exists() else "none, since the run had not saved one yet"
        raise UserError(
            f"{what} NaN or infinite at step {step}",
            "finite numbers",
            f"lower --optimizer.base-lr or add warm-up epochs; the last good checkpoint is {last_good}",
        )

    @torch.no_grad()
    def _score(self, state: TrainState) -> None:
        backbone = state.method.encoder()
        was_training = backbone.training
        backbone.eval()
        for monitor in self._monitors:
            self._log.note(state.next_step, monitor(backbone))
        backbone.train(was_training)
