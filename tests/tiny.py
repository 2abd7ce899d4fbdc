"""Runs small enough for tests: on 40 images of 40 pixels, learned from by `tiny_recipe`."""

import json
from pathlib import Path
from typing import Any

import tiny_recipe
import torch
from helpers import EIGHT_BIT, textured
from PIL import Image
from safetensors import safe_open

from smalti.runs import RunFolder
from smalti.training.fit import Engine
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.loader import BatchOrder

RECIPE_FILE = tiny_recipe.__file__
IMAGES = 40
STEPS = tiny_recipe.EPOCHS * IMAGES // tiny_recipe.BATCH  # 5 an epoch
ENGINE = Engine(workers=0, logger="none", log_every=1, checkpoint_every=3, score_every=-1)


def begin(recipe: Recipe, order: BatchOrder) -> TrainState:
    return TrainState.begin(recipe, EIGHT_BIT.normalize, order.steps_per_epoch)


def write_photos(folder: Path, count: int = IMAGES, side: int = 40, seed: int = 0) -> Path:
    """`count` PNGs of different sizes below `side` pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(textured(count, side=side, seed=seed)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def without_drawing(run: Path) -> Path:
    """A run folder that has its picture of the views, which takes longer to draw than these runs to train."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "views.png").touch()
    return run


def checkpoint_of(run: Path) -> dict[str, Any]:
    return torch.load(RunFolder(run).checkpoint, weights_only=True)


def encoder_of(run: Path) -> dict[str, Any]:
    """Weights and description; safetensors itself writes its header in any order."""
    with safe_open(run / "encoder.safetensors", framework="pt") as file:
        return {"metadata": file.metadata(), **{key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118


def losses_of(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of every line of metrics.jsonl, as they stand there."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def assert_same_state(a: Any, b: Any, where: str = "checkpoint") -> None:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same_state(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{where}.{number}")
    else:
        assert a == b, where


def assert_same_run(run: Path, straight: Path) -> None:
    """The run left what an uninterrupted one leaves: its state and encoder to the bit, and every step logged once."""
    assert_same_state(checkpoint_of(run), checkpoint_of(straight))
    assert_same_state(encoder_of(run), encoder_of(straight), "encoder")
    assert losses_of(run) == losses_of(straight)
