"""Batch normalisation over virtual groups on one device, or synchronised over several, for any network.

MoCo must not let a query and its key share batch statistics, or the network cheats through them: with many devices the
keys are shuffled between devices ("shuffling BN", arXiv:1911.05722, section 3.3). Here a batch is split into groups as
large as a device's share would be, and the keys are shuffled between groups; so it works on one device too.

Legend: N canvases on this process, C channels, n canvases in a group.
"""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smalti.distributed import sum_over_processes, world_size


def split_batch_norm(network: nn.Module, group: int) -> None:
    """Let every batch normalisation of `network`, timm's with an activation included, see `group` canvases at a time.

    Parameters, buffers and their names stay as they are. The last group of a batch that does not divide may be smaller.

    Args:
        network: changed in place.
        group: n, canvases that share their statistics, 2 or more.
    """
    for module in _norms(network):
        module.__class__ = _split_class(type(module))
        module.split_group = group


def synchronise_batch_norm(network: nn.Module) -> nn.Module:
    """Let batch normalisation use the statistics of all processes: fused layers on CUDA, plain arithmetic elsewhere."""
    if world_size() == 1:
        return network
    if torch.cuda.is_available():
        return convert_sync_batchnorm(network)  # timm's, which keeps activations that are part of a layer
    for module in _norms(network):
        module.__class__ = _synchronised_class(type(module))
    return network


def _norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _split_class(base: Any) -> Any:
    class Split(base):
        split_group: int
        momentum: float

        def forward(self, x: Tensor) -> Tensor:
            if not self.training or len(x) <= self.split_group:
                return super().forward(x)
            groups = x.split(self.split_group)
            momentum = self.momentum
            # The groups together move the running statistics as far as one batch would.
            self.momentum = 1 - (1 - momentum) ** (1 / len(groups))
            try:
                return torch.cat([super(Split, self).forward(group) for group in groups])
            finally:
                self.momentum = momentum

    Split.__name__ = Split.__qualname__ = f"Split{base.__name__}"
    return Split


def _synchronised_class(base: Any) -> Any:
    class Synchronised(base):
        def forward(self, x: Tensor) -> Tensor:
            return _synchronised_forward(self, x) if self.training else super().forward(x)

    Synchronised.__name__ = Synchronised.__qualname__ = f"Synchronised{base.__name__}"
    return Synchronised


def _synchronised_forward(norm: Any, x: Tensor) -> Tensor:
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = x.numel() / x.shape[1] * world_size()
    values = x if x.dtype.itemsize > 2 else x.float()
    mean = sum_over_processes(values.sum(dims)) / count
    centred = values - mean.view(shape)
    var = sum_over_processes(centred.square().sum(dims)) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
    out = centred * torch.rsqrt(var + norm.eps).view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    out = out.to(x.dtype)
    return norm.act(norm.drop(out)) if hasattr(norm, "act") else out
