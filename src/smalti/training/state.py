"""A run's state between two steps: what learns, its optimizer, and where it stands."""

from dataclasses import dataclass

import torch

from smalti.methods.method import DataInfo, Method, Progress
from smalti.models.checkpoints import load_initial
from smalti.normalize import Normalize
from smalti.schedules import cosine, warmup_cosine, warmup_drops
from smalti.training.hardware import resolve_precision, unfuse_attention
from smalti.training.optim import make_optimizer, scale_learning_rate
from smalti.training.recipe import Recipe


@dataclass(kw_only=True)
class TrainState:
    """What a step changes, and what it needs to know.

    Attributes:
        recipe: how the method learns.
        method: what learns.
        optimizer: of its weights.
        normalize: of the pixels.
        steps_per_epoch: batches, counted in parts where gradients are accumulated.
        next_step: the first step not yet taken, counted over the run.
    """

    recipe: Recipe
    method: Method
    optimizer: torch.optim.Optimizer
    normalize: Normalize
    steps_per_epoch: int
    next_step: int = 0

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        normalize: Normalize,
        steps_per_epoch: int,
        class_names: tuple[str, ...] = (),
        num_images: int = 0,
    ) -> "TrainState":
        """The untrained state, its weights drawn from the recipe's seed.

        Args:
            recipe: what to learn and how.
            normalize: of the pixels.
            steps_per_epoch: batches an epoch; where these are parts, those beyond the last whole batch are left out.
            class_names: of the images, where they have labels.
            num_images: in the data set, for methods that keep something for each; 0 if not known.

        Raises:
            UserError: the network does not take images of the views' sizes; see also `load_initial`.
        """
        torch.manual_seed(recipe.seed)
        # Targets are copies of what is built here, so they begin with the same weights.
        backbone = load_initial(recipe.init, recipe.backbone).backbone if recipe.init else recipe.backbone.build()
        method = recipe.method.build(backbone, DataInfo(normalize, class_names, num_images))
        for view in recipe.views:
            method.encoder().check_size(view.canvas_size)
        method.to(memory_format=torch.channels_last)
        if resolve_precision(recipe.precision) == "bf16-mixed" and not torch.cuda.is_available():
            unfuse_attention(method)
        return cls(
            recipe=recipe,
            method=method,
            optimizer=make_optimizer(recipe.optimizer, method, recipe.batch_size),
            normalize=normalize,
            steps_per_epoch=steps_per_epoch // recipe.accumulate * recipe.accumulate,
        )

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def finished(self) -> bool:
        return self.next_step >= self.total_steps

    def to(self, device: torch.device) -> None:
        """Move the weights and all that the optimizer keeps about them."""
        self.method.to(device)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # which puts its state where the weights are

    def progress(self, step: int) -> Progress:
        return Progress(
            step=step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch, seed=self.recipe.seed
        )

    def learning_rate(self, step: int) -> float:
        """Of the optimizer step that ends with the given step."""
        config = self.recipe.optimizer
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        peak = scale_learning_rate(config.base_lr, self.recipe.batch_size)
        if config.drops:
            drops = [round(epoch * self.steps_per_epoch) for epoch in config.drops]
            return warmup_drops(step, warmup, drops, peak)
        return warmup_cosine(step, self.total_steps, warmup, peak, config.final_lr)

    def weight_decay(self, step: int) -> float:
        """Of the optimizer step that ends with the given step, for the weights that decay."""
        start, end = self.recipe.optimizer.weight_decay, self.recipe.optimizer.final_weight_decay
        return start if end is None else cosine(start, end, step / self.total_steps)

    def is_finite(self) -> bool:
        """Whether all weights are."""
        # A sum passes NaN and infinity on, and takes a twentieth of the time of looking at every weight.
        return bool(torch.stack([weights.detach().sum() for weights in self.method.parameters()]).isfinite().all())
