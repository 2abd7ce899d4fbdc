"""A run continues with the images that it began with, wherever they lie now, and with no others."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from smalti import cli
from smalti.images.folder import FolderSource
from smalti.images.same import describe, same_images
from smalti.runs import RunFolder
from smalti.training.log import Log

SETTINGS = "--workers 0 --logger none --log-every 1 --checkpoint-every 3 --executor"


class StopError(Exception):
    pass


def pretrain(photos: Path | str, run: Path, executor: str, *more: str) -> int:
    line = ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, *SETTINGS.split(), executor]
    return cli.main([*line, *more])


def stop_in_the_middle(photos: Path, run: Path, executor: str, *more: str) -> None:
    """A run that was cut off after step 7, with a checkpoint of step 6."""
    step = Log.step

    def stopping(self: Log, state: object, values: object) -> None:
        step(self, state, values)  # type: ignore[arg-type]
        if state.next_step == 7:  # type: ignore[attr-defined]
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "step", stopping)
        with pytest.raises(StopError):
            pretrain(photos, run, executor, *more)
    assert tiny.checkpoint_of(run)["next_step"] == 6


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 images of one size, two of them unreadable."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    for number in (5, 17):
        (folder / f"{number:02}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(params=["host", "device"])
def executor(request: pytest.FixtureRequest) -> str:
    return request.param


def move(photos: Path) -> Path:
    return photos.rename(photos.with_name("elsewhere"))


def spell_otherwise(photos: Path) -> str:
    return os.path.relpath(photos) + "/."


def remove_the_skipped(photos: Path) -> Path:
    for number in (5, 17):
        (photos / f"{number:02}.png").unlink()
    return photos


@pytest.mark.parametrize("change", [move, spell_otherwise, remove_the_skipped], ids=lambda change: change.__name__)
def test_a_run_goes_on_as_if_nothing_had_changed(
    change: Callable[[Path], Path | str], executor: str, photos: Path, tmp_path: Path
) -> None:
    straight, run = (tiny.without_drawing(tmp_path / name) for name in ("straight", "run"))
    assert pretrain(photos, straight, executor) == 0
    stop_in_the_middle(photos, run, executor)
    assert pretrain(change(photos), run, executor, "--resume", "--max-bad-fraction", "0.5") == 0
    tiny.assert_same_state(tiny.checkpoint_of(run), tiny.checkpoint_of(straight))


def test_an_image_that_was_damaged_meanwhile_does_not_matter(executor: str, photos: Path, tmp_path: Path) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    stop_in_the_middle(photos, run, executor)
    (photos / "30.png").write_bytes(b"")
    assert pretrain(photos, run, executor, "--resume") == 0
    assert "30.png" in (run / "skipped.txt").read_text()


def repaint(photos: Path) -> None:
    Image.new("RGB", (24, 24), "red").save(photos / "30.png")


def add(photos: Path) -> None:
    Image.new("RGB", (24, 24)).save(photos / "new.png")


def remove_a_good_one(photos: Path) -> None:
    (photos / "30.png").unlink()


def rename(photos: Path) -> None:
    (photos / "30.png").rename(photos / "31b.png")


@pytest.mark.parametrize("change", [repaint, add, remove_a_good_one, rename], ids=lambda change: change.__name__)
def test_other_images_are_refused_in_one_line(
    change: Callable[[Path], None], executor: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    stop_in_the_middle(photos, run, executor)
    change(photos)
    assert pretrain(photos, run, executor, "--resume") == 2
    assert "than the run began with" in capsys.readouterr().err.splitlines()[-1]
    assert tiny.checkpoint_of(run)["next_step"] == 6


def test_removed_files_go_back_to_where_a_folder_lists_them(tmp_path: Path) -> None:
    names = [f"x/{name}" for name in ("b.png", "z.png", "a/c.png", "a/d/e.png", "a/d.png", "f/g.png", "f/a/b.png")]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    began = describe(FolderSource(tmp_path))
    for removed in names:
        shutil.move(tmp_path / removed, tmp_path / "kept.txt")
        there = same_images(FolderSource(tmp_path), began, [removed])
        assert removed in [there.image_name(index) for index in range(len(there))]
        shutil.move(tmp_path / "kept.txt", tmp_path / removed)


@pytest.mark.parametrize("seed", range(20))
def test_a_checkpoint_with_one_changed_byte_is_never_trained_on(
    seed: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny.without_drawing(tmp_path / "run")
    stop_in_the_middle(photos, run, "device")
    path, random = RunFolder(run).checkpoint, np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    path.write_bytes(data)
    code = pretrain(photos, run, "device", "--resume")
    if code == 0:  # the byte stands for nothing, such as a date
        assert tiny.checkpoint_of(run)["next_step"] == tiny.STEPS
        straight = tiny.without_drawing(tmp_path / "straight")
        assert pretrain(photos, straight, "device") == 0
        tiny.assert_same_state(tiny.checkpoint_of(run), tiny.checkpoint_of(straight))
    else:
        assert code == 2
        assert "last.ckpt" in capsys.readouterr().err.splitlines()[-1]


def test_the_checkpoint_before_a_damaged_one_is_offered(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, straight = (tiny.without_drawing(tmp_path / name) for name in ("run", "straight"))
    assert pretrain(photos, straight, "device") == 0
    stop_in_the_middle(photos, run, "device")
    folder = RunFolder(run)
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:-100])
    assert pretrain(photos, run, "device", "--resume") == 2
    assert f"rename {folder.previous_checkpoint} to last.ckpt" in capsys.readouterr().err
    folder.previous_checkpoint.rename(folder.checkpoint)
    assert pretrain(photos, run, "device", "--resume") == 0
    tiny.assert_same_state(tiny.checkpoint_of(run), tiny.checkpoint_of(straight))
