"""A checkpoint is whole or is not there, and one that does not fit is refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_recipe
import torch

from smalti.errors import UserError
from smalti.models.timm_backbone import TimmBackbone
from smalti.training.checkpoint import load_checkpoint, save_checkpoint
from smalti.training.recipe import Recipe
from smalti.training.state import TrainState
from smalti.views.loader import BatchOrder


def begin(recipe: Recipe) -> TrainState:
    return tiny.begin(recipe, BatchOrder(num_images=40, batch_size=recipe.micro_batch, seed=0))


def save(path: Path, seed: int = 0) -> TrainState:
    state = begin(tiny_recipe.recipe(seed=seed))
    save_checkpoint(path, state)
    return state


@pytest.mark.parametrize("written", [0, 1000])
def test_a_checkpoint_that_fails_half_way_leaves_the_old_one_whole(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    old = save(path, seed=1)

    def failing(state: Any, target: Path) -> None:
        target.write_bytes(b"x" * written)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(UserError, match="No space"):
        save(path, seed=2)
    found = begin(tiny_recipe.recipe())
    load_checkpoint(path, found)
    tiny.assert_same_state(found.method.state_dict(), old.method.state_dict())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", [1, 8, 9, 12, 14, 99])
def test_a_changed_way_of_compression_is_refused_in_one_line(method: int, tmp_path: Path) -> None:
    """Bytes 10 and 8 of the entries of a zip, in its directory and beside its files: deflate, bzip2, lzma, others."""
    save(tmp_path / "last.ckpt")
    data = bytearray((tmp_path / "last.ckpt").read_bytes())
    for mark, at in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        data[data.index(mark) + at] = method
    (tmp_path / "last.ckpt").write_bytes(data)
    with pytest.raises(UserError, match=r"last.ckpt, which is damaged"):
        load_checkpoint(tmp_path / "last.ckpt", begin(tiny_recipe.recipe()))


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt")
    other = tiny_recipe.recipe(backbone=TimmBackbone(name="resnet18", stem="stride16"))
    with pytest.raises(UserError, match=r"got checkpoint .*last.ckpt: .*; expected a checkpoint of this recipe"):
        load_checkpoint(tmp_path / "last.ckpt", begin(other))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04 half of one"])
def test_a_damaged_checkpoint_is_refused_in_one_line(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(damage)
    with pytest.raises(UserError, match=r"^got checkpoint [^\n]*$"):
        load_checkpoint(tmp_path / "last.ckpt", begin(tiny_recipe.recipe()))


def test_the_optimizer_goes_on_from_its_own_state(tmp_path: Path) -> None:
    state = begin(tiny_recipe.recipe())
    for parameter in state.method.query_network.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    state.optimizer.step()
    save_checkpoint(tmp_path / "last.ckpt", state)
    found = begin(tiny_recipe.recipe())
    load_checkpoint(tmp_path / "last.ckpt", found)
    tiny.assert_same_state(found.optimizer.state_dict(), state.optimizer.state_dict())
