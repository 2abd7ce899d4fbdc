"""A recipe's training as a plain PyTorch loop: what the engine is measured against, and what steps are timed with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smalti.images.statistics import PixelStatistics
from smalti.models.momentum import update_targets
from smalti.training.fit import make_module
from smalti.training.hardware import resolve_precision
from smalti.training.optim import clip_gradients, make_optimizer
from smalti.training.recipe import Recipe
from smalti.views.canvas import Canvas
from smalti.views.loader import BatchOrder


class BareLoop:
    """The same weights, arithmetic and schedules as `fit`, and nothing around them.

    Args:
        recipe: what to train; its gradients are not accumulated.
        statistics: of the pixels.
        order: of the images.
        device: where.
        class_names: of the images, where they have labels.
    """

    def __init__(
        self,
        recipe: Recipe,
        statistics: PixelStatistics,
        order: BatchOrder,
        device: str = "cpu",
        class_names: tuple[str, ...] = (),
    ) -> None:
        self._module = make_module(recipe, statistics, order, class_names)
        self.method = self._module.method.to(device)
        self.normalize = self._module.normalize
        self._optimizer = make_optimizer(recipe.optimizer, self.method, recipe.batch_size)
        self._recipe = recipe
        self.autocast = torch.autocast(
            device, torch.bfloat16, enabled=resolve_precision(recipe.precision) == "bf16-mixed"
        )

    def step(self, number: int, views: Sequence[Canvas]) -> Tensor:
        """Forward, backward, the weights, the targets; the loss."""
        progress = self._module.progress(number)
        with self.autocast:
            loss, _ = self.method(views, progress)
        self._optimizer.zero_grad()
        loss.backward()
        clip_gradients(self._recipe.optimizer, self.method)
        for group in self._optimizer.param_groups:
            group["lr"] = self._module.learning_rate(number)
            if group["weight_decay"]:
                group["weight_decay"] = self._module.weight_decay(number)
        self._optimizer.step()
        update_targets(self.method.momentum_pairs(progress))
        return loss.detach()
