"""Pre-training, from a source of images to a run folder."""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from lightning_fabric import Fabric

from smalti.errors import UserError
from smalti.images.array import ArraySource
from smalti.images.ledger import BadFiles
from smalti.images.memory import load_into_memory
from smalti.images.same import describe
from smalti.images.source import ImageSource
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone
from smalti.models.encoder import WEIGHTS_NAME
from smalti.runs import RunFolder
from smalti.training.checkpoint import Saver, load_checkpoint
from smalti.training.hardware import available_cores, resolve_precision
from smalti.training.log import Log, Tracker
from smalti.training.loop import fill_memory, train
from smalti.training.processes import all_present, is_first, launch
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.training.watch import Monitor, Watch
from smalti.views.batch import Batch
from smalti.views.loader import BatchOrder, ViewDataset, load_batches


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

    @property
    def processes(self) -> int:
        """That train together: one a device."""
        return self.devices * self.nodes

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
        source: the images; of a run that is continued those of `same_images`.
        run: where to write; locked by the caller.
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
    first = is_first(engine.processes)
    ledger = BadFiles(run.path, len(source), recipe.max_bad_fraction, writes=first)
    if recipe.executor != "host":
        source = load_into_memory(source, ledger) or source
    order = BatchOrder(num_images=len(source), batch_size=recipe.micro_batch, seed=recipe.seed, block=recipe.block_size)
    order.share(engine.processes)
    order.check_parts(recipe.accumulate)
    for view in recipe.views:
        view.check_block(order.block_size)
    state = TrainState.begin(recipe, statistics.normalize, order.steps_per_epoch, source.class_names, len(source))
    if first:  # now that the settings are known to be possible
        run.begin(recipe.to_json(), lambda: describe(source) | {"pixels": asdict(statistics)}, resume)
        begun()
    if resume and run.checkpoint.exists():
        load_checkpoint(run.checkpoint, state)
    if first:
        run.tidy(state.next_step)
        if state.finished and not (run.path / WEIGHTS_NAME).exists():
            export(state.method.encoder())
    if not state.finished:
        fabric = launch(engine.devices, engine.nodes, resolve_precision(recipe.precision))
        state.to(fabric.device)
        batches_of = partial(_batches, recipe, source, order, statistics, engine, fabric)
        if recipe.init and state.next_step == 0:
            batches = min(math.ceil(state.method.memory / recipe.micro_batch), state.steps_per_epoch)
            fill_memory(state, batches_of(range(batches)), fabric)
        loader = batches_of(range(state.next_step, state.total_steps))
        log = Log(run, state, engine.log_every, engine.logger)
        scored = _scored_epochs(recipe.epochs, engine.score_every) if monitors else set()
        watch = Watch(run, ledger, log, monitors, scored, engine.log_every)
        with all_present():
            train(state, loader, fabric, log, watch, Saver(run, engine.checkpoint_every, export, watch))
    return state


def _batches(
    recipe: Recipe,
    source: ImageSource,
    order: BatchOrder,
    statistics: PixelStatistics,
    engine: Engine,
    fabric: Fabric,
    steps: range,
) -> Generator[Batch]:
    in_memory = isinstance(source, ArraySource)
    executor = recipe.executor
    if executor == "auto":
        executor = "device" if in_memory else "host"
    dataset = ViewDataset(source, recipe.views, order, statistics, executor, fabric.global_rank, fabric.world_size)
    workers = engine.workers
    if workers < 0:
        # Images in memory need no decoding: on a CPU a worker would only take a core from the network.
        workers = 0 if in_memory and not torch.cuda.is_available() else available_cores() // engine.devices
    return load_batches(dataset, steps, workers, pin_memory=torch.cuda.is_available())


def _scored_epochs(epochs: int, every: int) -> set[int]:
    if every < 0:
        return set()
    every = every or max(1, round(epochs / 10))
    return set(range(every, epochs, every)) | {epochs}
