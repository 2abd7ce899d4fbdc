"""Batch normalization over virtual groups on one device, or synchronized over several, for any network.

MoCo must not let a query and its key share batch statistics, or the network exploits them: with many devices the
keys are shuffled between devices ("shuffling BN", arXiv:1911.05722, section 3.3). Here a batch is split into groups as
large as a device's share would be, and the keys are shuffled between groups; so it works on one device too.

Legend: N rows (canvases or regions) on this process, C channels.
"""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from smalti.distributed import sum_over_processes, world_size
from smalti.precision import widen


class Groups:
    """Number of groups of consecutive rows that a batch is split into; 1 at first.

    A number of groups, not a size, because an image may have several rows: small crops, or regions of mosaics.
    """

    count = 1


def split_batch_norm(network: nn.Module) -> Groups:
    """Let every batch normalization of `network`, timm's with an activation included, see one group at a time.

    Parameters, buffers and their names stay as they are.

    Returns:
        The setting of the number of groups, which may change at any time. A deep copy of the network has its own.

    Example:
        >>> from smalti.models import split_batch_norm
        >>> norm = nn.BatchNorm2d(8)
        >>> split_batch_norm(norm).count = 4  # of a batch of 32 images each 8 have their own statistics
        >>> tuple(norm(torch.randn(32, 8, 4, 4)).shape)
        (32, 8, 4, 4)
    """
    groups = Groups()
    for module in _norms(network):
        module.__class__ = _split_class(type(module))
        module.groups = groups
    return groups


def synchronize_batch_norm(network: nn.Module) -> None:
    """Let batch normalization use the statistics of all processes: fused layers on CUDA, plain arithmetic elsewhere.

    Example:
        >>> from smalti.models import synchronize_batch_norm
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> synchronize_batch_norm(network)
        >>> isinstance(network[1], nn.modules.batchnorm._BatchNorm)
        True
    """
    if torch.cuda.is_available():
        convert_sync_batchnorm(network)  # timm's, which keeps activations that are part of a layer
        return
    for module in _norms(network):
        module.__class__ = _synchronized_class(type(module))


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Give the running statistics of every process the mean over all of them, where they are each process's own.

    Running statistics are linear in the batches' own, so when this is done, and how often, does not change the mean.

    Example:
        >>> from smalti.models import average_statistics
        >>> average_statistics(nn.BatchNorm2d(8))  # alone there is nothing to do
    """
    if world_size() == 1:
        return
    norms = [norm for norm in _norms(network) if norm.track_running_stats]
    buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    if buffers:
        mean = sum_over_processes(torch.cat(buffers)) / world_size()
        for buffer, averaged in zip(buffers, mean.split([len(buffer) for buffer in buffers]), strict=True):
            buffer.copy_(averaged)


def _norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _split_class(base: Any) -> Any:
    class Split(base):
        groups: Groups
        momentum: float

        def forward(self, x: Tensor) -> Tensor:
            if not self.training or self.groups.count == 1:
                return super().forward(x)
            groups = x.chunk(self.groups.count)
            momentum = self.momentum
            # The groups together move the running statistics as far as one batch would.
            self.momentum = 1 - (1 - momentum) ** (1 / len(groups))
            try:
                return torch.cat([super(Split, self).forward(group) for group in groups])
            finally:
                self.momentum = momentum

    Split.__name__ = Split.__qualname__ = f"Split{base.__name__}"
    return Split


def _synchronized_class(base: Any) -> Any:
    class Synchronized(base):
        def forward(self, x: Tensor) -> Tensor:
            # Checked at every step: networks are built before the process group is.
            alone = not self.training or world_size() == 1
            return super().forward(x) if alone else _synchronized_forward(self, x)

    Synchronized.__name__ = Synchronized.__qualname__ = f"Synchronized{base.__name__}"
    return Synchronized


def _synchronized_forward(norm: Any, x: Tensor) -> Tensor:
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = x.numel() / x.shape[1] * world_size()
    values = widen(x)
    mean = sum_over_processes(values.sum(dims)) / count
    centered = values - mean.view(shape)
    var = sum_over_processes(centered.square().sum(dims)) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
    out = centered * torch.rsqrt(var + norm.eps).view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    out = out.to(x.dtype)
    return norm.act(norm.drop(out)) if hasattr(norm, "act") else out
