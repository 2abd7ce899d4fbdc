"""Checkpoints: everything that a run needs to continue as if it had not stopped.

Queue, running statistics and momentum weights are in the method's state dictionary; the order of the images, the views,
the schedules and all random numbers follow from the number of the next step.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from smalti.errors import UserError
from smalti.files import atomic
from smalti.training.module import Pretraining


def save_checkpoint(path: Path, module: Pretraining, optimizer: torch.optim.Optimizer) -> None:
    """Write the run's state; the file appears whole or not at all."""
    state = {
        "next_step": module.next_step,
        "method": module.method.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, module: Pretraining) -> None:
    """Put the module where the checkpoint left off; its optimizer takes its state when it is made.

    Raises:
        UserError: the file is not a checkpoint of this run's method.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        module.method.load_state_dict(state["method"])
    except (RuntimeError, KeyError, OSError, EOFError, UnpicklingError) as error:
        # torch's advice for what it cannot unpickle is to run the code in it.
        reason = "damaged" if isinstance(error, UnpicklingError) else (str(error) or type(error).__name__)
        raise UserError(
            f"checkpoint {path}: {reason.splitlines()[0]}", "a checkpoint of this recipe", "give another --out"
        ) from error
    module.next_step = state["next_step"]
    module.optimizer_state = state["optimizer"]
