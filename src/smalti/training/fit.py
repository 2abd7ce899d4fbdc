"""Pre-training, from a source of images to a run folder."""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch.utils.data import DataLoader

from smalti.distributed import is_first
from smalti.errors import UserError
from smalti.images.array import ArraySource
from smalti.images.ledger import BadFiles
from smalti.images.memory import load_into_memory
from smalti.images.source import ImageSource
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone
from smalti.runs import RunFolder
from smalti.training.checkpoint import Saver, load_checkpoint
from smalti.training.hardware import available_cores, resolve_precision
from smalti.training.log import Log, Tracker
from smalti.training.loop import fill_memory, train
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.training.watch import Monitor, Watch
from smalti.views.batch import Batch
from smalti.views.loader import BatchOrder, ViewDataset, make_loader


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a run uses and how often it reports; nothing here changes what is learned.

    Attributes:
        devices: GPUs, or on a machine without any, processes.
        nodes: machines.
        workers: processes that load images for each device; -1 for one a core (none for images in memory).
        logger: "tensorboard", "wandb" (an extra), or "none"; metrics.jsonl is written in any case.
        log_every: steps between two lines of the log.
        checkpoint_every: steps between checkpoints; 0 for the end of an epoch, at least a minute apart.
        score_every: epochs between two kNN scores during training; 0 for about ten in all, -1 for none.

    Example:
        >>> from smalti import Engine
        >>> Engine(logger="none", score_every=-1).devices
        1
    """

    devices: int = 1
    nodes: int = 1
    workers: int = -1
    logger: Tracker = "tensorboard"
    log_every: int = 10
    checkpoint_every: int = 0
    score_every: int = 0

    def __post_init__(self) -> None:
        for name in ("devices", "nodes", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} {getattr(self, name)}", "1 or more", f"give a larger --{name.replace('_', '-')}"
                )
        if self.devices > 1 and torch.cuda.is_available() and self.devices > torch.cuda.device_count():
            raise UserError(f"{self.devices} devices", f"at most {torch.cuda.device_count()}", "give fewer --devices")


def fit(
    source: ImageSource,
    run: RunFolder,
    recipe: Recipe,
    statistics: PixelStatistics,
    *,
    engine: Engine,
    export: Callable[[Backbone], object],
    monitors: Sequence[Monitor] = (),
    resume: bool = False,
    begun: Callable[[], object] = lambda: None,
) -> TrainState:
    """Train from where `run` stands, or from the start, to the end.

    Args:
        source: the images.
        run: where to write.
        recipe: what to learn and how.
        statistics: normalization and range of the pixels.
        engine: devices, workers and reports.
        export: writes the encoder file; called at every checkpoint.
        monitors: score the backbone now and then.
        resume: continue the run that is there.
        begun: called once the settings are known to be possible and the run folder is there, before the first step.

    Raises:
        UserError: see `BatchOrder`, `RunFolder.begin`, `BadFiles`; also for a loss that is not finite.
    """
    ledger = BadFiles(run.path, len(source), recipe.max_bad_fraction, writes=is_first())
    if recipe.executor != "host":
        source = load_into_memory(source, ledger) or source
    order = BatchOrder(num_images=len(source), batch_size=recipe.micro_batch, seed=recipe.seed, block=recipe.block_size)
    order.share(engine.devices * engine.nodes)
    order.check_parts(recipe.accumulate)
    for view in recipe.views:
        view.check_block(order.block_size)
    state = TrainState.begin(recipe, statistics.normalize, order.steps_per_epoch, source.class_names)
    if is_first():  # now that the settings are known to be possible
        run.begin(recipe.to_json(), _describe(source), resume)
        begun()
    if resume and run.checkpoint.exists():
        load_checkpoint(run.checkpoint, state)
    if is_first():
        run.tidy(state.next_step)
    if not state.finished:
        fabric = _launch(recipe, engine)
        state.to(fabric.device)
        loader_of = partial(_make_loader, recipe, source, order, statistics, engine, fabric)
        if recipe.init and state.next_step == 0:
            batches = min(math.ceil(state.method.memory / recipe.micro_batch), state.steps_per_epoch)
            fill_memory(state, loader_of(range(batches)), fabric)
        loader = loader_of(range(state.next_step, state.total_steps))
        log = Log(run, state, engine.log_every, engine.logger)
        scored = _scored_epochs(recipe.epochs, engine.score_every) if monitors else set()
        watch = Watch(run, ledger, log, monitors, scored, engine.log_every)
        train(state, loader, fabric, log, watch, Saver(run, engine.checkpoint_every, export, watch))
    return state


def _launch(recipe: Recipe, engine: Engine) -> Fabric:
    """Start the other processes, or find them, and choose the device and the precision."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    several = engine.devices * engine.nodes > 1
    fabric = Fabric(
        accelerator="auto",
        devices=engine.devices,
        num_nodes=engine.nodes,
        # Running statistics and the queue need no broadcast: the one is each process's own, the other already equal.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        precision=resolve_precision(recipe.precision),
    )
    fabric.launch()
    return fabric


def _make_loader(
    recipe: Recipe,
    source: ImageSource,
    order: BatchOrder,
    statistics: PixelStatistics,
    engine: Engine,
    fabric: Fabric,
    steps: range,
) -> DataLoader[Batch]:
    in_memory = isinstance(source, ArraySource)
    executor = recipe.executor
    if executor == "auto":
        executor = "device" if in_memory else "host"
    dataset = ViewDataset(source, recipe.views, order, statistics, executor, fabric.global_rank, fabric.world_size)
    workers = engine.workers
    if workers < 0:
        # Images in memory need no decoding: on a CPU a worker would only take a core from the network.
        workers = 0 if in_memory and not torch.cuda.is_available() else available_cores() // engine.devices
    return make_loader(dataset, steps, workers, pin_memory=torch.cuda.is_available())


def _scored_epochs(epochs: int, every: int) -> set[int]:
    if every < 0:
        return set()
    every = every or max(1, round(epochs / 10))
    return set(range(every, epochs, every)) | {epochs}


def _describe(source: ImageSource) -> dict[str, Any]:
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(os.fsencode(source.image_name(index)) + b"\n")  # a file's name need not be UTF-8
    return {"name": source.name, "images": len(source), "digest": digest.hexdigest()[:16]}
