"""Which of several processes this is, and how they are started or found."""

import logging
import os

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from smalti.errors import UserError
from smalti.training.hardware import Precision


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


def _check_started(processes: int) -> None:
    started = os.environ.get("WORLD_SIZE", "") if TorchElasticEnvironment.detect() else ""
    if started.isdigit() and int(started) != processes:
        raise UserError(
            f"{started} processes of torchrun for a run of {processes}",
            "as many",
            f"give --devices {os.environ.get('LOCAL_WORLD_SIZE', started)}, and --nodes for several machines",
        )
