"""The commands one after another, as a user runs them, on a tiny set with labels."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import tiny
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

from smalti import cli
from smalti.models.checkpoints import load_encoder
from smalti.recipes import all_recipes

CLASSES = ("ant", "bee")


def smalti(line: str) -> None:
    assert cli.main(line.split()) == 0, line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train and val, each with two classes: dark ants, bright bees."""
    data = tmp_path_factory.mktemp("data")
    for seed, part in enumerate(("train", "val")):
        for shade, name in enumerate(CLASSES):
            for path in tiny.write_photos(data / part / name, count=12, seed=2 * seed + shade).iterdir():
                cv2.imwrite(str(path), cv2.imread(str(path)) // 4 + 160 * shade)
    return data


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    smalti(f"pretrain {data} --out {run} --recipe {tiny.RECIPE_FILE} --workers 0 --log-every 3")
    return run


def test_pretrain_leaves_a_run_folder(run: Path, data: Path) -> None:
    described = json.loads((run / "recipe.json").read_text())
    assert described["recipe"]["name"] == "tiny"
    assert described["data"]["images"] == 24
    assert cv2.imread(str(run / "views.png")).std() > 20
    assert [line["step"] for line in map(json.loads, (run / "metrics.jsonl").open()) if "loss" in line] == [3, 6, 9, 12]
    events = list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert any(b"loss_composed_0" in path.read_bytes() for path in events)
    info = json.loads((run / "encoder.json").read_text())
    assert (info["recipe"], info["image_size"], info["network"]) == ("tiny", 16, "query")


def test_labels_of_train_and_val_are_scored_during_training(run: Path) -> None:
    scores = [line for line in map(json.loads, (run / "metrics.jsonl").open()) if "knn1" in line]
    assert [line["step"] for line in scores] == [3, 6, 9, 12]  # every epoch of four
    assert scores[-1]["knn1"] > 0.9


def test_some_classes_are_learned_from_and_scored_on(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bees, out = tmp_path / "bees.txt", tiny.without_drawing(tmp_path / "run")
    bees.write_text("# of two classes\nbee\n")
    pretrain = f"pretrain {data} --out {out} --recipe {tiny.RECIPE_FILE} --workers 0 --logger none --epochs 1 --resume"
    smalti(f"{pretrain} --classes {bees}")
    described = json.loads((out / "recipe.json").read_text())["data"]
    assert described["images"] == 12
    assert described["name"] == f"{data / 'train'} ({bees})"
    assert cli.main(pretrain.split()) == 2
    assert "other images in" in capsys.readouterr().err
    smalti(f"evaluate knn {run} --train {data} --classes {bees} --json {tmp_path}/knn.json")
    scores = json.loads((tmp_path / "knn.json").read_text())
    assert (scores["classes"], scores["knn1"]) == (str(bees), 1)


def test_views_follow_step_and_size(data: Path, tmp_path: Path) -> None:
    pictures = {}
    for name, options in {"a": "", "again": "", "step": "--step 1", "size": "--size 32"}.items():
        smalti(f"views {data} --out {tmp_path}/{name}.png --recipe {tiny.RECIPE_FILE} {options}")
        pictures[name] = (tmp_path / f"{name}.png").read_bytes()
    assert pictures["a"] == pictures["again"]
    assert len(set(pictures.values())) == 3


def test_size_scales_every_view(data: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    engine = "--workers 0 --logger none --epochs 1 --score-every -1"
    smalti(f"pretrain {data} --out {run} --recipe {tiny.RECIPE_FILE} --size 24 {engine}")
    crop, _, mosaic = json.loads((run / "recipe.json").read_text())["recipe"]["views"]
    assert (crop["size"], mosaic["tile_size"], mosaic["max_shift"]) == (24, 12, 6)
    assert load_encoder(run).info.image_size == 24


def test_a_method_learns_from_the_views_of_another_recipe(data: Path, tmp_path: Path) -> None:
    line = f"pretrain {data} --out {tmp_path}/run --recipe {tiny.RECIPE_FILE} --epochs 1 --workers 0 --logger none"
    smalti(f"{line} --views-of moco_v2_multicrop_small --size 16 --views.2.count 3")
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    assert recipe["name"] == "tiny, views of moco_v2_multicrop_small"
    assert [(view["class"], view["size"], view["count"]) for view in recipe["views"]] == [
        ("Crop", 16, 1),
        ("Crop", 16, 1),
        ("Crop", 8, 3),
    ]


@pytest.mark.parametrize(("probe", "score"), [("knn", "knn1"), ("linear", "linear")])
def test_evaluate_scores_a_split_or_two_folders_alike(
    probe: str, score: str, run: Path, data: Path, tmp_path: Path
) -> None:
    smalti(f"evaluate {probe} {run} --train {data} --json {tmp_path}/split.json")
    smalti(f"evaluate {probe} {run} --train {data}/train --test {data}/val --json {tmp_path}/folders.json")
    split, folders = (json.loads((tmp_path / name).read_text()) for name in ("split.json", "folders.json"))
    assert split[score] == folders[score] > 0.9
    assert split["encoder"] == str(run)


def test_evaluate_gives_the_score_logged_at_the_end_of_training(run: Path, data: Path, tmp_path: Path) -> None:
    smalti(f"evaluate knn {run} --train {data} --json {tmp_path}/scores.json")
    last = [line for line in map(json.loads, (run / "metrics.jsonl").open()) if "knn1" in line][-1]
    assert json.loads((tmp_path / "scores.json").read_text())["knn1"] == last["knn1"]


def test_embed_writes_what_the_encoder_says(run: Path, data: Path, tmp_path: Path) -> None:
    smalti(f"embed {run} {data} --split test --out {tmp_path}/x.npz")
    found: Any = np.load(tmp_path / "x.npz")
    assert found["names"].tolist() == [f"{name}/{number:02}.png" for name in CLASSES for number in range(12)]
    assert found["labels"].tolist() == [0] * 12 + [1] * 12
    assert tuple(found["class_names"]) == CLASSES
    assert found["features"].shape == (24, load_encoder(run).dim)
    smalti(f"embed {run} {data}/val/bee --out {tmp_path}/bees.npz")
    assert np.array_equal(np.load(tmp_path / "bees.npz")["features"], found["features"][12:])


def test_timm_takes_the_export_strictly(run: Path, tmp_path: Path) -> None:
    smalti(f"export {run} --to timm --out {tmp_path}/weights.safetensors")
    encoder = load_encoder(run)
    model = timm.create_model("resnet18", num_classes=0, **encoder.info.backbone.options)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False), nn.Identity()
    model.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    assert_same_outputs(model, encoder)


def test_torchvision_takes_the_export_strictly(tmp_path: Path) -> None:
    smalti(f"export random:resnet18 --to torchvision --out {tmp_path}/weights.pth")
    model = resnet18()
    model.fc = nn.Identity()
    model.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True), strict=True)
    assert_same_outputs(model, load_encoder("random:resnet18"))


def assert_same_outputs(model: nn.Module, encoder: Any) -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = model.eval()(encoder.standardize(pixels)), encoder(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_recipes_are_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smalti(f"recipes --json {tmp_path}/recipes.json")
    written = json.loads((tmp_path / "recipes.json").read_text())
    assert written == [json.loads(make().to_json()) for make in all_recipes().values()]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(all_recipes())
    assert "72.3" in next(line for line in lines if line.startswith("mosrep_moco "))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    smalti("--version")
    assert capsys.readouterr().out.startswith("smalti 0.")
