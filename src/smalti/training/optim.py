"""The one learning-rate rule, and optimizers by name."""

from dataclasses import dataclass
from typing import Literal

import timm.optim
import torch
from torch import nn

from smalti.errors import UserError

REFERENCE_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights are moved.

    Attributes:
        name: "sgd", "lars" (for batches in the thousands) or "adamw" (for transformers).
        base_lr: learning rate at a batch of 256 images.
        momentum: of SGD and LARS.
        weight_decay: pulls every weight, or see `decay_norm_and_bias`.
        decay_norm_and_bias: normalization and bias parameters decay too, as in MoCo; LARS then adapts them too.
        warmup_epochs: epochs over which the rate rises from 0.
        final_lr: learning rate, of any batch, that the cosine falls to.
        drops: epochs at which the rate falls to a tenth, in place of the cosine; none for the cosine.
        final_weight_decay: weight decay that a cosine leads to, as in DINO; None to keep `weight_decay`.
        clip_norm: greatest norm of all gradients together; 0 for no limit.
        clip_each: limit the gradient of each parameter by itself instead, as released DINO does.

    Example:
        >>> from smalti import OptimizerConfig
        >>> OptimizerConfig(name="adamw", base_lr=5e-4, weight_decay=0.04, final_weight_decay=0.4).clip_norm
        0.0
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    base_lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    warmup_epochs: float = 0.0
    final_lr: float = 0.0
    drops: tuple[float, ...] = ()
    final_weight_decay: float | None = None
    clip_norm: float = 0.0
    clip_each: bool = False

    def __post_init__(self) -> None:
        if self.base_lr <= 0:
            raise UserError(f"base_lr {self.base_lr}", "a number above 0", "use e.g. 0.03")
        if self.warmup_epochs < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise UserError(
                f"warmup_epochs {self.warmup_epochs}, weight_decay {self.weight_decay}, momentum {self.momentum}",
                "0 or more, 0 or more, and a number in [0, 1)",
                "change the one outside",
            )
        if self.drops and self.final_lr:
            raise UserError(f"drops {self.drops} and final_lr {self.final_lr}", "one of the two", "leave one out")
        if self.final_lr < 0 or self.clip_norm < 0 or (self.final_weight_decay or 0) < 0:
            raise UserError(
                f"final_lr {self.final_lr}, final_weight_decay {self.final_weight_decay}, clip_norm {self.clip_norm}",
                "0 or more",
                "raise the one below 0",
            )


def scale_learning_rate(base_lr: float, batch_size: int) -> float:
    """base * batch / 256 (Goyal et al., arXiv:1706.02677), the batch being that of an optimizer step on all devices."""
    return base_lr * batch_size / REFERENCE_BATCH


def clip_gradients(config: OptimizerConfig, module: nn.Module) -> None:
    """Shorten gradients that are longer than `clip_norm`."""
    if not config.clip_norm:
        return
    learning = [parameter for parameter in module.parameters() if parameter.grad is not None]
    for parameters in [[parameter] for parameter in learning] if config.clip_each else [learning]:
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)


def make_optimizer(config: OptimizerConfig, module: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """The optimizer of every parameter of `module` that takes gradients."""
    rate = scale_learning_rate(config.base_lr, batch_size)
    groups = _groups(config, module)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    if config.name == "lars":
        return timm.optim.Lars(groups, lr=rate, momentum=config.momentum)
    return torch.optim.SGD(groups, lr=rate, momentum=config.momentum)


def _groups(config: OptimizerConfig, module: nn.Module) -> list[dict[str, object]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.decay_norm_and_bias:
        return [{"params": parameters, "weight_decay": config.weight_decay}]
    # Normalize weights and all biases are the vectors; timm's LARS adapts only groups that decay.
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
