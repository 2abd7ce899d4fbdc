"""The examples run, are short, and keep the promises that smalti's own parts keep."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import torch
from PIL import Image

from smalti import cli
from smalti.testing import check_backbone, check_composition, check_method, textured
from smalti.user_files import load_file
from smalti.views import Crop

EXAMPLES = Path(__file__).parent.parent / "examples"
RECIPES = ("own_backbone", "own_composition", "own_method")
BATCH = 8


def example(name: str) -> ModuleType:
    return load_file(EXAMPLES / f"{name}.py", "example")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 images."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(textured(40, side=64)):
        path = folder / f"class {number % 2}" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_a_loop_of_ones_own(photos: Path) -> None:
    method = example("own_loop").train(str(photos), epochs=2, batch_size=BATCH, size=32)
    assert int(method.queue.position) == 2 * 40


def test_a_data_set_of_ones_own() -> None:
    losses = example("own_data").main(steps=3)
    assert len(losses) == 3
    assert torch.tensor(losses).isfinite().all()


def test_a_lightning_module(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    module = example("lightning_module").main(str(photos), max_epochs=1, limit_train_batches=1, **options)
    online, target = (next(network.parameters()) for network in module.method.momentum_pairs(module.progress())[0][:2])
    assert not torch.equal(online, target)
    assert module.global_step == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_file_brings_its_own_parts(name: str, photos: Path, tmp_path: Path) -> None:
    """Its fields are options; the run resumes, is scored, and says what it was."""
    file, run = str(EXAMPLES / f"{name}.py"), tiny.without_drawing(tmp_path / "run")
    option, value = {
        "own_backbone": ("--backbone.depth", 2),
        "own_composition": ("--views.2.tile-size", 20),
        "own_method": ("--method.hidden", 24),
    }[name]
    settings = f"--batch-size {BATCH} --epochs 2 --size 32 --workers 0 --logger none --score-every -1 --precision 32"
    line = ["pretrain", str(photos), "--out", str(run), "--recipe", file, *settings.split(), option, str(value)]
    assert cli.main(line) == 0
    assert cli.main([*line, "--resume"]) == 0
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    part, *_, field = option.removeprefix("--").split(".")
    described = recipe[part][2] if part == "views" else recipe[part]
    assert described[field.replace("-", "_")] == value
    more = ["--backbone", file] if name == "own_backbone" else []
    features = tmp_path / "features.npz"
    assert cli.main(["embed", str(run), str(photos), "--out", str(features), "--image-size", "32", *more]) == 0


def test_parts_of_ones_own_keep_the_promises() -> None:
    backbone = example("own_backbone").ConvMixer(width=16, depth=1)
    composition = example("own_composition").Quartet(tile_size=16)
    check_backbone(backbone)
    check_composition(composition)
    method = example("own_method").SimSiamConfig(dim=16, hidden=8)
    check_method(method, (Crop(size=32), Crop(size=32), composition), backbone)
