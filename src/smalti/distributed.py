"""Talk between processes that is the identity in a single one, so that everything runs and is tested on a laptop."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def world_size() -> int:
    """Number of processes that train together; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """(B, ...) of every process, equal in shape, -> (world * B, ...) in order of rank; carries no gradient."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_objects(objects: list[Any]) -> list[Any]:
    """The lists of every process as one, in order of rank."""
    if world_size() == 1:
        return objects
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, objects)
    return [item for part in parts for item in part]


def share(tensor: Tensor) -> Tensor:
    """(world * B, ...) -> this process's (B, ...)."""
    size = len(tensor) // world_size()
    return tensor[rank() * size : (rank() + 1) * size]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of every process's tensor; gradients flow back to all of them."""
    return tensor if world_size() == 1 else all_reduce(tensor)
