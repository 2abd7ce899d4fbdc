"""A run may begin from weights: its network, its targets and its memory are then made by them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_recipe
import torch
from helpers import EIGHT_BIT, ListSource, textured

from smalti import api, cli
from smalti.methods.moco import MoCo
from smalti.models.checkpoints import load_encoder
from smalti.models.encoder import EncoderInfo, save_encoder
from smalti.models.timm_backbone import TimmBackbone
from smalti.runs import RunFolder
from smalti.training import fit as fit_file
from smalti.training.fit import fit
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.batch import canvases
from smalti.views.loader import BatchOrder, ViewDataset

SOURCE = ListSource(textured(tiny.IMAGES, side=40))
ORDER = BatchOrder(num_images=tiny.IMAGES, batch_size=tiny_recipe.BATCH, seed=0)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """An encoder of the tiny recipe's network with weights and pixel means of its own."""
    torch.manual_seed(99)
    config = tiny_recipe.recipe().backbone
    info = EncoderInfo(backbone=config, pixels=replace(EIGHT_BIT, mean=(0.1, 0.2, 0.3)), image_size=32)
    encoder = load_encoder("random:resnet18", backbone=config)  # type: ignore[arg-type]
    for parameter in encoder.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return save_encoder(tmp_path / "earlier", encoder.backbone, info).parent


def assert_begun_from(state: TrainState, earlier: Path) -> None:
    expected = load_encoder(earlier, backbone=None).backbone.model.state_dict()
    assert isinstance(state.method, MoCo)
    for network in (state.method.query_network, state.method.key_network):
        tiny.assert_same_state(dict(network.backbone.model.state_dict()), dict(expected))


def begin(recipe: Recipe) -> TrainState:
    return tiny.begin(recipe, ORDER)


def test_query_and_key_network_begin_with_the_weights(earlier: Path) -> None:
    assert_begun_from(begin(tiny_recipe.recipe(init=str(earlier))), earlier)


def test_a_foreign_checkpoint_is_found_and_must_fit(earlier: Path, tmp_path: Path) -> None:
    weights = load_encoder(earlier).backbone.model.state_dict()
    path = tmp_path / "moco.pth.tar"
    torch.save({"state_dict": {f"module.encoder_q.{key}": value for key, value in weights.items()}}, path)
    assert_begun_from(begin(tiny_recipe.recipe(init=str(path))), earlier)


def test_the_queue_holds_what_the_weights_make_of_images(earlier: Path, tmp_path: Path) -> None:
    """The tiny recipe's 40 images fill its queue of 32 keys before the first step."""
    recipe = tiny_recipe.recipe(init=str(earlier), executor="host")
    state = begin(recipe)
    dataset = ViewDataset(SOURCE, recipe.views, ORDER, EIGHT_BIT)
    assert isinstance(state.method, MoCo)
    for step in range(32 // tiny_recipe.BATCH):
        views = canvases(dataset[step], recipe.views, state.normalize)
        state.method.queue.enqueue(state.method._encode_keys(views[1], state.progress(step)))
    expected = state.method.queue.keys.clone()

    begun: list[torch.Tensor] = []

    def note(state: TrainState, *_: object) -> None:
        assert isinstance(state.method, MoCo)
        begun.append(state.method.queue.keys.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_file, "train", note)
        fit(SOURCE, RunFolder(tmp_path / "run"), recipe, EIGHT_BIT, engine=tiny.ENGINE, export=lambda backbone: None)
    torch.testing.assert_close(begun[0], expected)


def test_pixels_go_on_being_normalized_as_the_weights_know_them(earlier: Path, tmp_path: Path) -> None:
    photos, run = tiny.write_photos(tmp_path / "photos"), tiny.without_drawing(tmp_path / "run")
    recipe = tiny_recipe.recipe(init=str(earlier), epochs=1)
    encoder = api.pretrain(photos, run, recipe, engine=tiny.ENGINE)
    assert encoder.info.pixels.mean == (0.1, 0.2, 0.3)
    assert json.loads((run / "recipe.json").read_text())["recipe"]["init"] == str(earlier)


def test_weights_of_another_network_are_refused_in_one_line(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, run = tiny.write_photos(tmp_path / "photos"), tmp_path / "run"
    line = ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, "--init", str(earlier)]
    assert cli.main([*line, "--backbone.stem", "standard"]) == 2
    assert cli.main([*line[:-1], str(tmp_path / "nothing")]) == 2
    first, second = (text for text in capsys.readouterr().err.splitlines() if text.startswith("smalti: "))
    assert "conv1.weight" in first
    assert "nothing" in second
    assert not (run / "recipe.json").exists()


def test_timm_weights_are_asked_for_by_the_recipes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TimmBackbone] = []

    def pretrained(config: TimmBackbone) -> object:
        asked.append(config)
        return load_encoder("random:resnet18", backbone=config)

    monkeypatch.setattr("smalti.models.checkpoints._pretrained", pretrained)
    begin(tiny_recipe.recipe(init="timm:resnet18"))
    assert asked == [tiny_recipe.recipe().backbone]
