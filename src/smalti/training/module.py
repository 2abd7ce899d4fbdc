"""The one LightningModule: it turns batches into canvases, asks the method for its loss, and moves the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from smalti.distributed import gather
from smalti.errors import UserError
from smalti.methods.method import Method, Progress
from smalti.models.momentum import update_targets
from smalti.normalize import Normalize
from smalti.schedules import cosine, warmup_cosine, warmup_drops
from smalti.training.optim import clip_gradients, make_optimizer, scale_learning_rate
from smalti.training.recipe import Recipe
from smalti.views.batch import Batch, canvases
from smalti.views.canvas import Canvas
from smalti.views.rng import mix


class Pretraining(L.LightningModule):
    """A method in training.

    The number of the step comes with the batch, so nothing here depends on how often the run was stopped.

    Args:
        method: what learns.
        recipe: how.
        normalization: of the pixels.
        steps_per_epoch: batches, counted in parts where gradients are accumulated.
    """

    first_bad_step: Tensor

    def __init__(self, method: Method, recipe: Recipe, normalize: Normalize, steps_per_epoch: int) -> None:
        super().__init__()
        self.method = method
        self.recipe = recipe
        self.normalize = normalize
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = recipe.epochs * steps_per_epoch
        self.next_step = 0
        self.optimizer_state: dict[str, Any] | None = None
        self.logs: dict[str, Tensor] = {}
        self.loader: Callable[[int, int], DataLoader[Batch]] | None = None
        self.bad_images: list[tuple[str, str]] = []
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The steps still to come, for this process: asked for once Lightning knows which process this is."""
        if self.loader is None:
            raise RuntimeError("got no loader; expected fit() to set one; train through smalti.training.fit")
        return self.loader(self.trainer.global_rank, self.trainer.world_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[int, list[Canvas]]:
        """Make the canvases here: outside autocast, so that colors keep their precision."""
        self.bad_images.extend(batch.bad)
        return batch.step, canvases(batch, self.recipe.views, self.normalize)

    def training_step(self, batch: tuple[int, Sequence[Canvas]], batch_idx: int) -> Tensor:
        step, views = batch
        # Whatever is random inside a network (dropout, drop path) belongs to the step too.
        torch.manual_seed(int(mix(self.recipe.seed, step, self.global_rank) >> 1))
        loss, logs = self.method(views, self.progress(step))
        bad = ~loss.detach().isfinite() & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)
        self.logs = {"loss": loss.detach(), **logs}
        self.next_step = step + 1
        return loss

    def progress(self, step: int) -> Progress:
        return Progress(
            step=step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            seed=self.recipe.seed,
        )

    def learning_rate(self, step: int) -> float:
        """Of the optimizer step that ends with the given step."""
        recipe = self.recipe
        warmup = round(recipe.optimizer.warmup_epochs * self.steps_per_epoch)
        peak = scale_learning_rate(recipe.optimizer.base_lr, recipe.batch_size)
        if recipe.optimizer.drops:
            drops = [round(epoch * self.steps_per_epoch) for epoch in recipe.optimizer.drops]
            return warmup_drops(step, warmup, drops, peak)
        return warmup_cosine(step, self.total_steps, warmup, peak, recipe.optimizer.final_lr)

    def weight_decay(self, step: int) -> float:
        """Of the optimizer step that ends with the given step, for the weights that decay."""
        start, end = self.recipe.optimizer.weight_decay, self.recipe.optimizer.final_weight_decay
        return start if end is None else cosine(start, end, step / self.total_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = make_optimizer(self.recipe.optimizer, self.method, self.recipe.batch_size)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Called by Lightning between the backward pass and the step."""
        clip_gradients(self.recipe.optimizer, self.method)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Called once for every real step, whatever the accumulation: the targets move here and nowhere else."""
        step = self.next_step  # the closure runs training_step, which counts on
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
            if group["weight_decay"]:
                group["weight_decay"] = self.weight_decay(step)
        optimizer.step(closure=optimizer_closure)
        update_targets(self.method.momentum_pairs(self.progress(step)))

    def is_finite(self) -> bool:
        """The loss has never been NaN or infinite on this process, nor are the weights now."""
        return int(self.first_bad_step) < 0 and self._has_finite_weights()

    def check_finite(self, last_good: str) -> None:
        """Raise UserError, in every process, if the loss has been NaN or infinite in any, or if the weights are.

        It names the first such step, counted from 1 as in metrics.jsonl, and what can be saved.
        """
        bad = gather(self.first_bad_step[None])
        bad = bad[bad >= 0]
        if len(bad) == 0 and self._has_finite_weights():
            return
        what, step = ("a loss that is", int(bad.min()) + 1) if len(bad) else ("weights that are", self.next_step)
        raise UserError(
            f"{what} NaN or infinite at step {step}",
            "finite numbers",
            f"lower --optimizer.base-lr or add warm-up epochs; the last good checkpoint is {last_good}",
        )

    def _has_finite_weights(self) -> bool:
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.method.parameters()]).all())
