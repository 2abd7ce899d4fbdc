"""Pre-training, from a source of images to a run folder."""

import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader

from smalti.distributed import is_first
from smalti.errors import UserError
from smalti.images.array import ArraySource
from smalti.images.ledger import BadFiles
from smalti.images.memory import load_into_memory
from smalti.images.source import ImageSource
from smalti.images.statistics import PixelStatistics
from smalti.methods.method import DataInfo
from smalti.models.backbone import Backbone
from smalti.runs import RunFolder
from smalti.training.callbacks import Logging, Monitor, Saving, Watching
from smalti.training.checkpoint import load_checkpoint
from smalti.training.hardware import available_cores, resolve_precision, unfuse_attention
from smalti.training.module import Pretraining
from smalti.training.recipe import Recipe
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
    """

    devices: int = 1
    nodes: int = 1
    workers: int = -1
    logger: Literal["tensorboard", "wandb", "none"] = "tensorboard"
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
) -> Pretraining:
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
    for view in recipe.views:
        view.check_block(order.block_size)
    module = make_module(recipe, statistics, order, source.class_names)
    if is_first():  # now that the settings are known to be possible
        run.begin(recipe.to_json(), _describe(source), resume)
        begun()
    if resume and run.checkpoint.exists():
        load_checkpoint(run.checkpoint, module)
    if is_first():
        run.tidy(module.next_step)
    if module.next_step < module.total_steps:
        module.loader = partial(_make_loader, module, source, order, statistics, engine)
        _train(module, run, ledger, engine, export, monitors)
    return module


def make_module(
    recipe: Recipe, statistics: PixelStatistics, order: BatchOrder, class_names: tuple[str, ...] = ()
) -> Pretraining:
    """The untrained module of a recipe, its weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    normalize = statistics.normalize
    method = recipe.method.build(recipe.backbone.build(), DataInfo(normalize, class_names))
    for view in recipe.views:
        method.encoder().check_size(view.canvas_size)
    method.to(memory_format=torch.channels_last)
    if resolve_precision(recipe.precision) == "bf16-mixed" and not torch.cuda.is_available():
        unfuse_attention(method)
    steps_per_epoch = order.steps_per_epoch // recipe.accumulate * recipe.accumulate
    order.check_parts(recipe.accumulate)
    return Pretraining(method, recipe, normalize, steps_per_epoch)


def _make_loader(
    module: Pretraining,
    source: ImageSource,
    order: BatchOrder,
    statistics: PixelStatistics,
    engine: Engine,
    rank: int,
    world_size: int,
) -> DataLoader[Batch]:
    in_memory = isinstance(source, ArraySource)
    executor = module.recipe.executor
    if executor == "auto":
        executor = "device" if in_memory else "host"
    dataset = ViewDataset(source, module.recipe.views, order, statistics, executor, rank, world_size)
    workers = engine.workers
    if workers < 0:
        # Images in memory need no decoding: on a CPU a worker would only take a core from the network.
        workers = 0 if in_memory and not torch.cuda.is_available() else available_cores() // engine.devices
    steps = range(module.next_step, module.total_steps)
    return make_loader(dataset, steps, workers, pin_memory=torch.cuda.is_available())


def _train(
    module: Pretraining,
    run: RunFolder,
    ledger: BadFiles,
    engine: Engine,
    export: Callable[[Backbone], object],
    monitors: Sequence[Monitor],
) -> None:
    recipe = module.recipe
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it would tell of one epoch, see below
    log = Logging(run, engine.log_every)
    scored = _scored_epochs(recipe.epochs, engine.score_every) if monitors else set()
    trainer = L.Trainer(
        accelerator="auto",
        devices=engine.devices,
        num_nodes=engine.nodes,
        strategy=_strategy(engine),
        precision=resolve_precision(recipe.precision),
        max_epochs=1,  # to Lightning the whole run is one pass over a loader that begins at the next step
        accumulate_grad_batches=recipe.accumulate,
        callbacks=[
            log,
            Watching(run, ledger.merge, monitors, scored, log, engine.log_every),
            Saving(run, engine.checkpoint_every, export),
        ],
        logger=_logger(engine, run),
        log_every_n_steps=1,  # said by `Logging` alone; more than a run has steps would be warned of
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start.*")  # a frozen teacher
        warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*")
        trainer.fit(module)


def _scored_epochs(epochs: int, every: int) -> set[int]:
    if every < 0:
        return set()
    every = every or max(1, round(epochs / 10))
    return set(range(every, epochs, every)) | {epochs}


def _strategy(engine: Engine) -> Strategy | str:
    # Running statistics and the queue need no broadcast: the one is each process's own, the other already equal.
    several = engine.devices * engine.nodes > 1
    return DDPStrategy(broadcast_buffers=False) if several else "auto"


def _logger(engine: Engine, run: RunFolder) -> Logger | bool:
    if engine.logger == "tensorboard":
        return TensorBoardLogger(run.path, name="", version="tensorboard")
    if engine.logger == "wandb":
        if importlib.util.find_spec("wandb") is None:
            raise UserError("--logger wandb without the package", "wandb installed", "pip install 'smalti[wandb]'")
        return WandbLogger(name=run.path.name, save_dir=run.path)
    return False


def _describe(source: ImageSource) -> dict[str, Any]:
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.image_name(index).encode() + b"\n")
    return {"name": source.name, "images": len(source), "digest": digest.hexdigest()[:16]}
