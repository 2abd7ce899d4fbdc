"""What the user can mend is told in one line, with exit code 2 and no traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_recipe

from smalti import api, cli
from smalti.errors import UserError
from smalti.recipes import get_recipe

RECIPE = f"--recipe {tiny.RECIPE_FILE} --workers 0 --logger none"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders good and bad."""
    place = tmp_path_factory.mktemp("place")
    tiny.write_photos(place / "photos", count=12)
    tiny.write_photos(place / "one", count=1)
    tiny.write_photos(place / "three", count=3)
    (place / "empty").mkdir()
    (place / "texts").mkdir()
    (place / "texts" / "a.txt").touch()
    source = Path(tiny.RECIPE_FILE).read_text()
    (place / "misspelled.py").write_text(source.replace('"epochs"', '"epocs"'))
    (place / "no_function.py").write_text("epochs = 3\n")
    (place / "no_syntax.py").write_text("def recipe(:\n")
    (place / "other.py").write_text("def recipe():\n    return 3\n")
    return place


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path) -> Callable[[str], str]:
    """The one line that a command ends with; PLACE and RUN stand for folders."""

    def run(line: str) -> str:
        arguments = line.replace("PLACE", str(place)).replace("RUN", str(tmp_path / "run")).split()
        assert cli.main(arguments) == 2
        (told,) = capsys.readouterr().err.splitlines()
        prefix = "smalti: got "
        assert told.startswith(prefix)
        got, expected, do = told.removeprefix(prefix).split("; ", 2)
        assert expected.startswith("expected ")
        assert got
        assert do
        return told.replace(str(place), "PLACE")

    return run


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("PLACE/nowhere", "'PLACE/nowhere', which does not exist"),
        ("cifra10", "did you mean cifar10"),
        ("PLACE/empty", "no images in PLACE/empty (no files at all)"),
        ("PLACE/texts", "no images in PLACE/texts (other files: 1 .txt)"),
        ("PLACE/misspelled.py", "the file PLACE/misspelled.py"),
        ("PLACE/one", "1 image; expected 2 or more"),
        ("PLACE/three", "images to deal mosaics of 4 tiles from"),
    ],
)
def test_images(data: str, said: str, complaint: Callable[[str], str]) -> None:
    assert said in complaint(f"pretrain {data} --out RUN {RECIPE}")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("mosrep_mocco", "try mosrep_moco"),
        ("PLACE/nowhere.py", "recipe file PLACE/nowhere.py, which does not exist"),
        ("PLACE/misspelled.py", "unexpected keyword argument 'epocs'"),
        ("PLACE/no_function.py", "has no attribute 'recipe'"),
        ("PLACE/no_syntax.py", "SyntaxError in PLACE/no_syntax.py"),
        ("PLACE/other.py", "int from recipe() in PLACE/other.py; expected a smalti Recipe"),
    ],
)
def test_recipes(recipe: str, said: str, complaint: Callable[[str], str]) -> None:
    assert said in complaint(f"pretrain PLACE/photos --out RUN --recipe {recipe}")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epocs 3", "unknown option --epocs, 3; expected options of this command; did you mean --epochs?"),
        ("--epochs three", "Error parsing --epochs: invalid literal for int() with base 10: 'three'"),
        ("--epochs", "Missing value for argument '--epochs'"),
        ("--epochs 0", "got epochs 0; expected 1 or more; give a larger --epochs"),
        ("--seed -1", "got seed -1"),
        ("--accumulate 3", "a batch of 8 in 3 parts"),
        ("--block 3", "--block 3 for a batch of 8; expected a divisor"),
        ("--size 4", "crop size 4 px; expected at least 8 px"),
        ("--size small", "--size small; expected a number of pixels"),
        ("--views.0.size 4", "crop size 4 px; expected at least 8 px"),
        ("--views.0.scale 0.5 0.2", "crop scale (0.5, 0.2)"),
        ("--views.2.tiles 5", "invalid choice '5' for argument '--views.2.tiles'"),
        ("--method.queue 0", "queue 0"),
        ("--max-bad-fraction 2", "a bad fraction of 2.0"),
        ("--devices 0", "devices 0; expected 1 or more"),
        ("--devices 3", "8 images on 3 processes"),
        ("--backbone.name resnet19", "backbone 'resnet19'; expected the name of a timm architecture; try resnet18"),
        ("--backbone.options {bad", "Error parsing --backbone.options"),
        ('--backbone.options {"laiers":1}', "unexpected keyword argument 'laiers'"),
        ("--backbone.in-channels 5", "00.png: has 3 channels, 5 were asked for"),
    ],
)
def test_options(option: str, said: str, complaint: Callable[[str], str], tmp_path: Path) -> None:
    assert said in complaint(f"pretrain PLACE/photos --out RUN {RECIPE} {option}")
    assert not (tmp_path / "run" / "recipe.json").exists()  # so that the next try may use the folder


def test_what_is_required(complaint: Callable[[str], str]) -> None:
    assert "Missing from smalti pretrain: --out PATH" in complaint(f"pretrain PLACE/photos {RECIPE}")
    assert "A folder of images" in complaint(f"pretrain --out RUN {RECIPE}")
    assert "got command 'train'; expected pretrain, views" in complaint("train PLACE/photos")


def test_a_run_folder_that_cannot_be_made(complaint: Callable[[str], str]) -> None:
    assert "Not a directory" in complaint(f"pretrain PLACE/photos --out PLACE/other.py/run {RECIPE}")


def test_a_run_that_is_there(complaint: Callable[[str], str], place: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    line = f"pretrain {place}/photos --out RUN --epochs 1 {RECIPE}"
    assert cli.main(line.replace("RUN", str(run)).split()) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "which holds a run; expected an empty folder; add --resume" in complaint(line)
    assert "began with (seed 0 -> 1)" in complaint(f"{line} --seed 1 --resume")
    assert "method.ema_momentum 0.9 -> 0.8" in complaint(f"{line} --method.ema-momentum 0.8 --resume")
    tiny.write_photos(tmp_path / "other", count=13)
    assert "than the run began with (13, not 12)" in complaint(
        f"{line} --resume".replace(f"{place}/photos", str(tmp_path / "other"))
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("views PLACE/photos --out PLACE/nowhere/views.png", "whose folder does not exist"),
        ("views PLACE/photos --out PLACE/views.jpg", "a file ending in .png"),
        ("evaluate knn PLACE/nowhere --train PLACE/photos --test PLACE/photos", "where there is no file"),
        ("evaluate knn random:resnet18 --train PLACE/photos", "alone, which has no test part"),
        ("evaluate knn random:resnet18 --train PLACE/photos --test PLACE/three", "PLACE/photos, images without labels"),
        ("evaluate svm random:resnet18 --train PLACE/photos", "invalid choice 'svm' for argument 'probe'"),
        ("embed random:resnet18 PLACE/photos --out PLACE/nowhere/x.npz", "whose folder does not exist"),
        ("embed random:resnet18 PLACE/photos --out PLACE/x.npz --split test", "no test split in PLACE/photos"),
        ("embed random:resnet19 PLACE/photos --out PLACE/x.npz", "try resnet18"),
        ("export random:resnet18 --to onnx --out PLACE/x", "invalid choice 'onnx' for argument '--to'"),
        ("export random:resnet18 --to timm --out PLACE/x.pth", "write to PLACE/x.safetensors"),
        ("recipes --json PLACE/nowhere/x.json", "whose folder does not exist"),
    ],
)
def test_other_commands(line: str, said: str, complaint: Callable[[str], str]) -> None:
    assert said in complaint(line)


def test_a_batch_larger_than_the_set_becomes_smaller_and_is_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    line = f"pretrain {place}/photos --out {run} {RECIPE} --epochs 1 --batch-size 64"
    assert cli.main(line.split()) == 0
    assert "only 12 images: a batch has 8 in place of 64" in capsys.readouterr().out
    assert json.loads((run / "recipe.json").read_text())["recipe"]["batch_size"] == tiny_recipe.BATCH


@pytest.mark.parametrize(
    ("images", "recipe", "block", "accumulate", "batch"),
    [
        (60, "mcl_small", 0, 1, 48),
        (60, "mcl_small", 0, 2, 32),
        (60, "mosrep_moco_small", 0, 1, 56),
        (60, "mosrep_moco_small", 20, 1, 40),
        (7, "mosrep_moco_small", 0, 1, 7),
        (600, "mosrep_moco_small", 0, 1, 512),
    ],
)
def test_a_smaller_batch_is_one_that_the_views_can_be_dealt_from(
    images: int, recipe: str, block: int, accumulate: int, batch: int
) -> None:
    fitted = api._fit_batch(replace(get_recipe(recipe), block=block, accumulate=accumulate), images)
    assert fitted.batch_size == batch
    assert fitted.micro_batch % fitted.block_size == 0


def test_too_few_images_for_a_canvas_are_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"pretrain {place}/photos --out {tmp_path}/run --recipe mcl_small".split()) == 2
    assert "montages of 16 tiles" in capsys.readouterr().err


def test_debug_gives_the_traceback() -> None:
    with pytest.raises(UserError, match="recipe 'nowhere'"):
        cli.main(["pretrain", "photos", "--out", "run", "--recipe", "nowhere", "--debug"])


def test_a_real_command_complains_in_one_line(place: Path, tmp_path: Path) -> None:
    line = f"-m smalti.cli pretrain {place}/photos --out {tmp_path}/run {RECIPE} --backbone.name resnet19"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *line.split()], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("smalti: got backbone 'resnet19'")
