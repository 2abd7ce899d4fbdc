"""The slow copy of a network: target <- m * target + (1 - m) * online (MoCo, arXiv:1911.05722, Eq. 2)."""

import copy
from typing import NamedTuple, TypeVar

import torch
from timm.layers import DropPath
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class MomentumPair(NamedTuple):
    """Two networks of one shape and the weight m in [0, 1] that the target keeps of itself.

    Example:
        >>> from smalti.models import MomentumPair, momentum_copy
        >>> online = nn.Linear(4, 2)
        >>> MomentumPair(online, momentum_copy(online), momentum=0.99).momentum
        0.99
    """

    online: nn.Module
    target: nn.Module
    momentum: float


def momentum_copy(online: AnyModule) -> AnyModule:
    """A copy that starts equal, takes no gradients, and drops no paths: targets come from the whole network.

    Example:
        >>> from smalti.models import momentum_copy
        >>> target = momentum_copy(nn.Linear(4, 2))
        >>> target.weight.requires_grad
        False
    """
    target = copy.deepcopy(online).requires_grad_(False)
    for module in target.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return target


@torch.no_grad()
def update_targets(pairs: list[MomentumPair]) -> None:
    """Move every target's parameters; buffers, such as running statistics, stay the target's own.

    Example:
        >>> from smalti.models import MomentumPair, momentum_copy, update_targets
        >>> online = nn.Linear(1, 1, bias=False)
        >>> target = momentum_copy(online)
        >>> before, _ = nn.init.constant_(target.weight, 0.0), nn.init.constant_(online.weight, 1.0)
        >>> update_targets([MomentumPair(online, target, momentum=0.75)])
        >>> target.weight.item()
        0.25
    """
    for online, target, momentum in pairs:
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
