"""Classes are the same where their names are, whatever their numbers; and only numbers are scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import textured
from PIL import Image

from smalti import cli
from smalti.api import evaluate_knn, evaluate_linear
from smalti.errors import UserError
from smalti.evaluation.features import FeatureSet
from smalti.evaluation.knn import KnnProbe

SCORES = {"knn": lambda *sets: evaluate_knn(*sets)["knn1"], "linear": lambda *sets: evaluate_linear(*sets)["linear"]}


def clusters(names: tuple[str, ...], order: tuple[str, ...], each: int = 8) -> FeatureSet:
    """Images whose features point where their class does in `order`; labels count `names`."""
    labels = np.repeat(np.arange(len(names)), each)
    features = np.eye(len(order), dtype=np.float32)[[order.index(names[label].lower()) for label in labels]]
    features = features + 0.01 * np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    return FeatureSet(features, labels, tuple(map(str, range(len(labels)))), names)


ORDER = ("astro", "cat", "rocket")


@pytest.mark.parametrize("score", SCORES)
def test_a_test_set_may_lack_classes(score: str) -> None:
    train, test = clusters(ORDER, ORDER), clusters(("astro", "rocket"), ORDER)
    assert SCORES[score](train, test) == 1.0


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("names", "said"), [(("astro", "dog"), "dog"), (("Astro", "cat"), "there it is astro")])
def test_classes_that_training_does_not_know_are_named(score: str, names: tuple[str, ...], said: str) -> None:
    order = (*ORDER, "dog")
    with pytest.raises(UserError, match=said):
        SCORES[score](clusters(ORDER, order), clusters(names, order))


def test_a_class_without_test_images_does_not_matter() -> None:
    train, test = clusters(ORDER, ORDER), clusters(("astro", "rocket"), ORDER)
    test = FeatureSet(test.features, test.labels, test.names, ("astro", "rocket", "empty"))
    assert evaluate_linear(train, test)["linear"] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_numbers_are_refused(value: float) -> None:
    train = clusters(ORDER, ORDER)
    broken = train.features.copy()
    broken[3, 1] = value
    with pytest.raises(UserError, match="NaN or infinity"):
        KnnProbe(k=1).fit(broken, train.labels)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="NaN or infinity"):
        KnnProbe(k=1).fit(train.features, train.labels).predict(broken)  # type: ignore[arg-type]


def test_the_command_line_goes_by_name_too(tmp_path: Path) -> None:
    """A copy of some classes of the training set is recognized whole."""
    for number, image in enumerate(textured(24, side=40)):
        name = ORDER[number % 3]
        for part in ("train", "test") if name != "cat" else ("train",):
            path = tmp_path / part / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    for part in ("train", "test"):  # given one by one: together they would be one set's parts
        (tmp_path / part).rename(tmp_path / f"my {part}")
    out = tmp_path / "scores.json"
    line = ["evaluate", "knn", "random:resnet18", "--train", str(tmp_path / "my train"), "--image-size", "32"]
    assert cli.main([*line, "--test", str(tmp_path / "my test"), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["knn1"] == 1.0


def test_a_runs_checkpoint_is_no_encoder_but_names_the_folder_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"next_step": 3, "method": {"a": torch.zeros(1)}, "optimizer": {}}, path)
    assert cli.main(["export", str(path), "--to", "timm", "--out", str(tmp_path / "e.safetensors")]) == 2
    assert f"give the run folder, {tmp_path / 'run'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ("--backbone.options", "[1,2]"),
        ("--backbone.options", "{"),
        ("--method.projector.dim", "9223372036854775807"),
        ("--method.projector.dim", "99999999999"),
        ("--method.region-size", "9999999999999999999"),
        ("--method.queue", "9999999999999"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["pretrain", "photos", "--out", str(tmp_path / "run"), "--recipe", "mosrep_moco_small", *option]
    assert cli.main(line) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("smalti: got ")


def damaged(data: bytes, seed: int) -> bytes:
    """Cut, zeroed in the middle, or with a bit turned over."""
    random = np.random.default_rng(seed)
    at = int(random.integers(len(data)))
    if seed % 3 == 0:
        return data[:at]
    if seed % 3 == 1:
        return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
    return data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :]


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_of_features_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    clusters(ORDER, ORDER).save(path)
    path.write_bytes(damaged(path.read_bytes(), seed))
    try:
        found = FeatureSet.load(path)
    except UserError:
        return
    assert len(found) == 24
