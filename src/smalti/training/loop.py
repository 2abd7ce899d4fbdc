"""Pre-training on one page: batch, canvases, loss, backward, clip, rates, step, targets, log, save."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from signal import SIGTERM

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smalti.methods.method import Step
from smalti.models.momentum import update_targets
from smalti.signals import Stopped, noted
from smalti.training.checkpoint import Saver
from smalti.training.log import Log
from smalti.training.optim import clip_gradients
from smalti.training.state import TrainState
from smalti.training.watch import Watch
from smalti.views.batch import Batch, canvases
from smalti.views.canvas import Canvas
from smalti.views.rng import mix


def train(state: TrainState, loader: Generator[Batch], fabric: Fabric, log: Log, watch: Watch, saver: Saver) -> None:
    """Every step that the loader has, on this process's share of each batch.

    The number of the step comes with the batch, so nothing depends on how often the run was stopped.

    Args:
        state: what learns, on the device of `fabric`.
        loader: this process's batches, from `state.next_step` to the end.
        fabric: device, precision, and the other processes; launched.
        log: of losses, rates and speed.
        watch: for losses that are not finite, bad files, and scores.
        saver: of checkpoints.

    Raises:
        UserError: see `Watch`.
        Stopped: a signal asked for an end; the step was finished and saved.
    """
    network = fabric.strategy.setup_module(state.method)  # the method, or DDP around it
    with log, noted() as ending, closing(loader):
        for batch in log.timed(loader):
            # Outside autocast, so that colors keep their precision.
            views = canvases(batch.to(fabric.device), state.recipe.views, state.normalize)
            loss, logs = train_step(state, views, batch.step, fabric, network)
            state.next_step = batch.step + 1

            log.step(state, {"loss": loss, **logs})
            watch.step(state, loss, batch.bad)
            saver.step(state)

            if watch.agrees_to_end(state, ending.number):
                saver.save(state)
                fabric.barrier("saved")
                raise Stopped(ending.number or SIGTERM, f" after step {state.next_step} of {state.total_steps}")
    fabric.barrier("saved")  # no process goes on before the last files are there


@torch.no_grad()
def fill_memory(state: TrainState, loader: Iterable[Batch], fabric: Fabric) -> None:
    """Let a method that begins with given weights remember images by them, in place of random numbers."""
    for batch in loader:
        views = canvases(batch.to(fabric.device), state.recipe.views, state.normalize)
        with fabric.autocast():
            state.method.remember(views, state.progress(batch.step))


def train_step(
    state: TrainState, views: Sequence[Canvas], step: int, fabric: Fabric, network: nn.Module | None = None
) -> Step:
    """One step's arithmetic: its loss, detached, and what is worth logging.

    Args:
        state: what learns.
        views: this process's canvases, one entry a composition.
        step: its number, counted over the run.
        fabric: precision and the other processes.
        network: `state.method` with DDP around it, where several processes train.
    """
    recipe, method, optimizer = state.recipe, state.method, state.optimizer
    network = network or method
    progress = state.progress(step)
    completes = (step + 1) % recipe.accumulate == 0  # the weights move once a batch, whatever its parts

    # Whatever is random inside a network (dropout, drop path) belongs to the step too.
    torch.manual_seed(int(mix(recipe.seed, step, fabric.global_rank) >> 1))
    with nullcontext() if completes else _without_sync(network):
        with fabric.autocast():
            loss, logs = network(views, progress)
        fabric.backward(loss / recipe.accumulate)

    if completes:
        method.after_backward(progress)
        clip_gradients(recipe.optimizer, method)
        for group in optimizer.param_groups:
            group["lr"] = state.learning_rate(step)
            if group["weight_decay"]:
                group["weight_decay"] = state.weight_decay(step)
        optimizer.step()
        optimizer.zero_grad()
        update_targets(method.momentum_pairs(progress))
    return Step(loss.detach(), logs)


def _without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Gradients of all but the last part of a batch stay on their process."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
