"""Whatever lies in a folder, the run goes on with what can be decoded and says what could not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import tiny
import tiny_recipe
from helpers import textured
from PIL import Image

from smalti import api
from smalti.errors import UserError
from smalti.images.folder import FileSource
from smalti.views.loader import BatchOrder

BAD = {"cut.jpg": "truncated JPEG", "empty.jpg": "empty file", "text.jpg": "not an image (text)"}
ODD = {
    *("one.png", "ink.jpg", "deep.png", "deep.tif", "gray.png", "clear.png"),
    *("turned.jpg", "moving.gif", "huge.jpg"),
}


def write_odd(folder: Path) -> None:
    """Every file of `BAD` and of `ODD`."""
    image = textured(1, side=60)[0]
    picture, deep = Image.fromarray(image), image.astype(np.uint16) * 257
    picture.save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:500])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("a letter, not a picture\n")
    picture.resize((1, 1)).save(folder / "one.png")
    picture.convert("CMYK").save(folder / "ink.jpg")
    cv2.imwrite(str(folder / "deep.png"), deep)
    tifffile.imwrite(folder / "deep.tif", deep)
    picture.convert("L").save(folder / "gray.png")
    picture.convert("RGBA").save(folder / "clear.png")
    orientation = Image.Exif()
    orientation[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=orientation)
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    Image.new("L", (10_000, 10_000), 99).save(folder / "huge.jpg")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the files that were decoded."""
    names: set[str] = set()
    read = FileSource.read

    def noting(self: FileSource, index: int) -> Any:
        image = read(self, index)
        names.add(self.image_name(index))
        return image

    monkeypatch.setattr(FileSource, "read", noting)
    return names


def test_a_folder_of_everything_trains_to_the_end(used: set[str], tmp_path: Path) -> None:
    photos = tiny.write_photos(tmp_path / "photos", count=20, side=90)
    good = {path.name for path in photos.iterdir()}
    write_odd(photos)
    recipe, engine = tiny_recipe.recipe(epochs=1, executor="host"), replace(tiny.ENGINE, checkpoint_every=0)
    run = tiny.without_drawing(tmp_path / "run")
    api.pretrain(photos, run, recipe, engine=engine)
    assert [step for step, _ in tiny.losses_of(run)] == [1, 2, 3, 4]  # 32 files in batches of 8
    assert used == good | ODD
    skipped = (run / "skipped.txt").read_text().splitlines()
    assert sorted(skipped) == sorted(f"{name}\t{reason}" for name, reason in BAD.items())


def test_a_picture_of_the_views_is_drawn_from_such_a_folder(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    write_odd(photos)
    source = api.open_source(photos)
    api.plot(source, tiny_recipe.recipe(), tmp_path / "views.png")
    assert cv2.imread(str(tmp_path / "views.png")).std() > 20


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("good", [8, 1])
def test_more_bad_files_than_the_limit_stop_the_run(good: int, workers: int, tmp_path: Path) -> None:
    photos, recipe = tiny.write_photos(tmp_path / "photos", count=20), tiny_recipe.recipe(executor="host")
    # All good images stand in the first batch, so that none is left to take the place of its bad ones.
    first = BatchOrder(num_images=20, batch_size=8, seed=recipe.seed).indices(0)
    for number, path in enumerate(sorted(photos.iterdir())):
        if number not in first[:good]:
            path.write_bytes(path.read_bytes()[:100])
    run = tiny.without_drawing(tmp_path / "run")
    with pytest.raises(UserError, match=r"^got 11 bad files of 20 \(\d\d.png: truncated PNG;.*; expected at most 10;"):
        api.pretrain(photos, run, recipe, engine=replace(tiny.ENGINE, workers=workers))
    assert len((run / "skipped.txt").read_text().splitlines()) == 11


def test_a_bad_file_is_named_once_however_often_the_run_is_resumed(tmp_path: Path) -> None:
    photos = tiny.write_photos(tmp_path / "photos", count=16)
    (photos / "05.png").write_bytes(b"")
    run = tiny.without_drawing(tmp_path / "run")
    for _ in range(2):
        api.pretrain(photos, run, tiny_recipe.recipe(executor="host"), engine=tiny.ENGINE, resume=True)
        (run / "checkpoints" / "last.ckpt").unlink()
    assert (run / "skipped.txt").read_text() == "05.png\tempty file\n"


@pytest.mark.parametrize(("channels", "suffix"), [(1, "png"), (3, "tif"), (4, "tif"), (5, "npy")])
def test_images_of_16_bits_and_of_many_bands_are_learned_from_and_embedded(
    channels: int, suffix: str, tmp_path: Path
) -> None:
    photos, run = tmp_path / "photos", tiny.without_drawing(tmp_path / "run")
    photos.mkdir()
    for number, image in enumerate(textured(16, channels=channels, side=40)):
        deep, path = image.astype(np.uint16) * 16, photos / f"{number}.{suffix}"  # 12 bits in 16
        match suffix:
            case "png":
                cv2.imwrite(str(path), deep)
            case "tif":
                tifffile.imwrite(path, deep, photometric="rgb" if channels == 3 else "minisblack")
            case "npy":
                np.save(path, deep)
    recipe = tiny_recipe.recipe(backbone=replace(tiny_recipe.BACKBONE, in_channels=channels), epochs=1)
    encoder = api.pretrain(photos, run, recipe, engine=tiny.ENGINE)
    assert encoder.info.pixels.high == 65535
    assert encoder.info.pixels.mean == pytest.approx((128 * 16 / 65535,) * channels, rel=0.2)
    assert not (run / "skipped.txt").exists()
    features = api.embed(run, photos)
    assert features.features.shape == (16, 16)
    assert len(features.skipped) == 0
    assert len(np.unique(features.features, axis=0)) == 16
