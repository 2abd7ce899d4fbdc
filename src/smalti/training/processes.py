"""Which of several processes this is, and how they are started or found."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from smalti.distributed import rank, world_size
from smalti.errors import UserError
from smalti.training.hardware import Precision

# What gloo and NCCL say of a connection whose other end is gone.
_LOST = ("closed by peer", "Connection reset", "Broken pipe", "imed out", "remote process exited", "NCCL communicator")


def is_first(processes: int) -> bool:
    """Whether this process speaks for all, known even before they have found each other.

    Of what the environment says only that of the launcher at work counts; alone, nothing does.
    """
    if processes == 1:
        return True
    names = ["NODE_RANK", "LOCAL_RANK"]
    if TorchElasticEnvironment.detect():
        names = ["RANK"]
    elif SLURMEnvironment.detect():
        names = ["SLURM_PROCID"]
    return all(os.environ.get(name, "0") == "0" for name in names)


def launch(devices: int, nodes: int, precision: Precision) -> Fabric:
    """Start the other processes, or find them, and choose the device.

    Args:
        devices: of each node.
        nodes: machines.
        precision: of the arithmetic.

    Raises:
        UserError: more or fewer processes were started than these are.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    processes = devices * nodes
    _check_started(processes)
    try:
        fabric = Fabric(
            accelerator="auto",
            devices=devices,
            num_nodes=nodes,
            # Running statistics and the queue need no broadcast: each process has its own, or they are equal already.
            strategy=DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto",
            precision=precision,
            # Alone, what a scheduler says of other processes is not about this run.
            plugins=[LightningEnvironment()] if processes == 1 else None,
        )
        fabric.launch()
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{processes} processes that do not find each other ({str(error).strip().partition(chr(10))[0]})",
            f"{devices} processes on each of {nodes} machines",
            "let --devices and --nodes say what torchrun or SLURM starts",
        ) from error
    return fabric


@contextmanager
def all_present() -> Iterator[None]:
    """Within, that another process ended is told in one line, by its number where that can be found out.

    Raises:
        UserError: a process ended or was silent for too long.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not any(sign in str(error) for sign in _LOST):
            raise
        raise UserError(
            f"{_missing()} ended, so process {rank()} of {world_size()} cannot go on",
            "all of them until the end",
            "see what that process printed last; the same command with --resume continues",
        ) from error


def _missing() -> str:
    """Which process does not answer any more, as far as the others can tell."""
    if world_size() == 2:
        return f"process {1 - rank()}"
    try:
        dist.monitored_barrier(timeout=timedelta(seconds=10), wait_all_ranks=True)
    except (RuntimeError, ValueError) as error:  # gloo says which; NCCL has no such barrier
        found = re.search(r"[Rr]anks? ([\d, ]*\d)", str(error).partition("]")[2] or str(error))
        if found:
            return f"process {found[1]}"
    return "another process"


def _check_started(processes: int) -> None:
    started = os.environ.get("WORLD_SIZE", "") if TorchElasticEnvironment.detect() else ""
    if started.isdigit() and int(started) != processes:
        raise UserError(
            f"{started} processes of torchrun for a run of {processes}",
            "as many",
            f"give --devices {os.environ.get('LOCAL_WORLD_SIZE', started)}, and --nodes for several machines",
        )
