"""The embedded photographs: 19 classes, the same on every call, and no pixel in both splits."""

import numpy as np
import pytest

from smalti.images.photos import TRAIN_SHARE, cut, patch_boxes, photographs, photos


def test_nineteen_photographs_in_color():
    pictures = photographs()
    assert len(pictures) == 19
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in pictures.values())
    assert pictures["retina"].shape == (1411, 1411, 3)
    red, green, blue = pictures["temple"][50, 300].astype(int)  # sky
    assert blue >= green >= red > 100


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_count_and_repeat(split):
    source = photos(split, size=32, per_class_train=5, per_class_test=3)
    count = 5 if split == "train" else 3
    assert source.images.shape == (19 * count, 32, 32, 3)
    assert np.bincount(source.labels).tolist() == [count] * 19
    assert source.class_names == tuple(photographs())
    np.testing.assert_array_equal(source.images, photos(split, size=32, per_class_train=5, per_class_test=3).images)
    gray = source.images[source.labels == source.class_names.index("brick")]
    assert (gray[..., 0] == gray[..., 2]).all()
    assert gray.std() > 5


@pytest.mark.parametrize(("height", "width"), [(147, 384), (384, 384), (512, 300)])
def test_boxes_never_cross_between_the_splits(height, width):
    generator = np.random.default_rng(0)
    border = int(width * TRAIN_SHARE)
    train = patch_boxes(height, width, "train", 2000, generator)
    test = patch_boxes(height, width, "test", 2000, generator)
    assert train[:, 2].max() == border  # the border is reached from both sides, and never passed
    assert test[:, 0].min() == border
    for boxes in (train, test):
        x0, y0, x1, y1 = boxes.T
        assert min(x0.min(), y0.min()) >= 0
        assert x1.max() <= width
        assert y1.max() <= height
        np.testing.assert_array_equal(x1 - x0, y1 - y0)
        assert set(np.unique(x1 - x0)) == set(range(64, 113))


def test_cutting_takes_the_pixels_of_the_box():
    y, x = np.mgrid[:200, :250].astype(np.uint8)
    picture = np.stack([x, y, x], axis=-1)
    patches = cut(picture, np.array([[10, 20, 74, 84], [100, 50, 228, 178]]), size=64)
    np.testing.assert_array_equal(patches[0], picture[20:84, 10:74])
    np.testing.assert_allclose(patches[1][..., 0], np.tile(np.arange(100.5, 228, 2), (64, 1)), atol=0.5)


def test_patches_of_a_split_show_its_side_only(monkeypatch):
    picture = np.zeros((300, 500, 3), np.uint8)
    picture[:, 300:] = 200
    monkeypatch.setattr("smalti.images.photos.photographs", lambda: {"one": picture})
    monkeypatch.setattr("smalti.images.photos._PHOTOGRAPHS", {"one": ()})
    assert photos("train").images.max() <= 200 * 0.5  # the border falls inside a column after shrinking
    assert (photos("train").images[:, :, :-2] == 0).all()
    assert (photos("test").images[:, :, 2:] == 200).all()
