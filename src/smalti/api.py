"""The verbs of the command line in Python."""

import multiprocessing
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import dacite
import numpy as np
from rich.console import Console

from smalti.errors import UserError
from smalti.evaluation.features import FeatureSet, extract_features, matching_labels
from smalti.evaluation.knn import knn_scores
from smalti.evaluation.linear import LinearProbe
from smalti.images.catalog import has_split, open_source
from smalti.images.ledger import BadFiles
from smalti.images.same import same_images
from smalti.images.source import ImageSource, Subset
from smalti.images.statistics import PixelStatistics, measure
from smalti.models.backbone import Backbone
from smalti.models.checkpoints import load_encoder, load_initial
from smalti.models.encoder import Encoder, EncoderInfo, save_encoder
from smalti.recipes import get_recipe
from smalti.runs import RunFolder
from smalti.text import printable
from smalti.training.fit import Engine, fit
from smalti.training.processes import is_first
from smalti.training.recipe import Recipe
from smalti.views.batch import canvases
from smalti.views.blocks import can_assign
from smalti.views.loader import BatchOrder, ViewDataset
from smalti.views.plot import MOST_IMAGES, plot_views

_MONITORED = 5000  # images of a split that kNN looks at during training


def pretrain(
    data: str | Path,
    out: str | Path,
    recipe: str | Recipe = "mosrep_moco",
    *,
    classes: str | Path = "",
    engine: Engine | None = None,
    resume: bool = False,
) -> Encoder:
    """Learn an encoder from a folder of images, or a data set by name, and leave a run folder.

    Where the data have labeled train and test parts, kNN accuracy is printed and logged during training; labels are
    used for nothing else.

    Args:
        data: see `smalti.images.catalog.open_source`.
        out: the run folder.
        recipe: a recipe, its name, or a Python file with `def recipe() -> Recipe`.
        classes: "imagenet100", or a text file with a class's name on each line, to learn from images of these alone.
        engine: devices, workers and reports.
        resume: continue the run in `out`, or begin it if there is none.

    Returns:
        The trained encoder, as `load_encoder(out)` gives it.

    Raises:
        UserError: for anything that the user can put right.

    Example:
        >>> from smalti import pretrain
        >>> encoder = pretrain("photos", "runs/photos", "photos_demo")  # doctest: +SKIP
    """
    _refuse_to_start_anew()
    engine = engine or Engine()
    console = Console(quiet=not is_first(engine.processes), markup=False, highlight=False)
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    source = open_source(data, "train", recipe.backbone.in_channels, classes)
    run = RunFolder(out)
    began = run.began() if resume else {}
    if began:
        source = same_images(source, began, BadFiles(run.path, 1, writes=False).names)
    _announce(console, source)
    wanted, recipe = recipe.batch_size, _fit_batch(recipe, len(source))
    if recipe.batch_size < wanted:
        console.print(f"only {len(source)} images: a batch has {recipe.batch_size} in place of {wanted}")
    statistics = _pixels_of(began, run) if began else recipe.pixels(measure(source))
    if recipe.init and not began:  # weights go on as they were trained
        theirs = load_initial(recipe.init, recipe.backbone).info.pixels
        statistics = replace(statistics, mean=theirs.mean, std=theirs.std)
    info = EncoderInfo(
        backbone=recipe.backbone,
        pixels=statistics,
        image_size=recipe.image_size,
        # Small images have no margin to spare; large ones keep the papers' center crop.
        crop_fraction=224 / 256 if recipe.image_size >= 128 else 1.0,
        recipe=recipe.name,
        network=recipe.method.scored,
    )
    picture = run.path / "views.png"

    def draw_once() -> None:
        if not picture.exists():
            plot(source, recipe, picture, statistics)

    with run.locked() if is_first(engine.processes) else nullcontext():
        fit(
            source,
            run,
            recipe,
            statistics,
            engine=engine,
            export=lambda backbone: save_encoder(run.path, backbone, info),
            monitors=_monitors(data, classes, source, info, engine),
            resume=resume,
            begun=draw_once,
        )
    return load_encoder(run.path, backbone=recipe.backbone)


def _pixels_of(began: dict[str, Any], run: RunFolder) -> PixelStatistics:
    try:
        return PixelStatistics.from_json(began.get("pixels"))
    except (dacite.DaciteError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{run.path / 'recipe.json'}, which is damaged ({error})", "what the run began with", "restore it"
        ) from None


def _refuse_to_start_anew() -> None:
    """A script imported by a process that it starts itself would start it again, and so on."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "a script that trains while a process started by it imports it",
            'its work under `if __name__ == "__main__":`',
            "put it there",
        )


def plot(
    source: ImageSource, recipe: Recipe, path: str | Path, statistics: PixelStatistics | None = None, step: int = 0
) -> None:
    """Write a PNG of what the network will see: images, and canvases with every region outlined.

    Args:
        source: the images.
        recipe: whose views to draw.
        path: of the PNG.
        statistics: of the pixels; measured unless given.
        step: which batch of the run.
    """
    statistics = statistics or recipe.pixels(measure(source))
    # Of a whole batch only one block: the picture shows a few images, and tiles are assigned to canvases no further.
    block = _fit_batch(recipe, len(source)).block_size
    order = BatchOrder(num_images=len(source), batch_size=block, seed=recipe.seed, block=block)
    dataset = ViewDataset(source, recipe.views, order, statistics)
    batch = dataset[step]
    plot_views(
        [dataset.image(step, position) for position in range(min(block, MOST_IMAGES))],
        canvases(batch, recipe.views, statistics.normalize),
        path,
        normalize=statistics.normalize,
        names=[type(view).__name__ for view in recipe.views],
    )


def embed(
    encoder: str | Path | Encoder, data: str | Path, split: str = "train", classes: str | Path = "", **options: Any
) -> FeatureSet:
    """Features of every image, or of those of some classes, with labels and names.

    Data and classes are as for `pretrain`, further options as for `extract_features`.

    Example:
        >>> from smalti import embed
        >>> features = embed("runs/photos", "photos")  # doctest: +SKIP
    """
    encoder = encoder if isinstance(encoder, Encoder) else load_encoder(encoder)
    source = open_source(data, "test" if split == "test" else "train", encoder.info.backbone.in_channels, classes)
    return extract_features(encoder, source, **options)


def evaluate_knn(train: FeatureSet, test: FeatureSet) -> dict[str, float]:
    """Weighted kNN accuracy, 0 to 1, for k = 1, 5, 20 and 200 as far as the bank reaches."""
    return {f"knn{k}": accuracy for k, accuracy in knn_scores(train, test).items()}


def evaluate_linear(train: FeatureSet, test: FeatureSet, seed: int = 0) -> dict[str, float]:
    """Accuracy, 0 to 1, of a linear probe on frozen features."""
    train_labels, test_labels = matching_labels(train, test)
    probe = LinearProbe(seed=seed).fit(train.features, train_labels)
    return {"linear": probe.score(test.features, test_labels)}


def _announce(console: Console, source: ImageSource) -> None:
    classes = f" in {len(source.class_names)} classes" if source.class_names else ""
    console.print(printable(f"{source.name}: {len(source)} images{classes}"))
    ignored = getattr(source, "ignored", {})
    if ignored:
        listed = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in ignored.items())
        console.print(printable(f"ignored: {listed}"))


def _fit_batch(recipe: Recipe, images: int) -> Recipe:
    """For a set smaller than the batch the same with a smaller one: the largest from which its views can be assigned.

    Raises:
        UserError: there are too few images for any.
    """
    parts = recipe.accumulate
    if recipe.batch_size <= images:
        return recipe
    if images < max(2, parts):
        raise UserError(f"{images} image{'s' * (images > 1)}", f"{max(2, parts)} or more", "add images")
    sizes = [size for step in (8 * parts, parts) for size in range(images // step * step, 1, -step)]
    smaller = (replace(recipe, batch_size=size) for size in sizes)
    fitting = (
        each for each in smaller if each.micro_batch % each.block_size == 0 and can_assign(each.block_size, each.views)
    )
    return next(fitting, replace(recipe, batch_size=sizes[0]))  # which will say what is wrong when its views are made


def _monitors(
    data: str | Path, classes: str | Path, source: ImageSource, info: EncoderInfo, engine: Engine
) -> list[Any]:
    if engine.score_every < 0 or source.labels is None or not has_split(data):
        return []
    test = open_source(data, "test", info.backbone.in_channels, classes)
    if test.labels is None:
        return []
    train_part, test_part = (Subset(s, evenly_spaced(len(s), _MONITORED)) for s in (source, test))

    def monitor(backbone: Backbone) -> dict[str, float]:
        encoder = Encoder(backbone, info).to(next(backbone.parameters()).device)
        train, test = (extract_features(encoder, part) for part in (train_part, test_part))
        return {f"knn{k}": score for k, score in knn_scores(train, test).items() if k in (1, 20)}

    return [monitor]


def evenly_spaced(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of `count` indices, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))
