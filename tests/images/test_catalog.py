"""What a user writes after a command leads to the right images, or to an error that helps."""

import socket
from types import SimpleNamespace

import numpy as np
import pytest

from smalti.errors import UserError
from smalti.images import named
from smalti.images.array import ArraySource
from smalti.images.catalog import has_split, open_source
from smalti.images.folder import FolderSource
from smalti.images.named import set_names

from .conftest import encoded, smooth


def names(source):
    return [source.image_name(index) for index in range(len(source))]


@pytest.mark.parametrize("train", ["train", "Training"])
@pytest.mark.parametrize("test", ["val", "valid", "validation", "test"])
def test_split_folders_are_the_splits(tree, train, test):
    root = tree(f"{train}/a/1.png", f"{train}/b/2.png", f"{test}/a/3.png", f"{test}/b/4.png")
    assert has_split(root)
    assert (open_source(root).read(0) == 0).all()
    assert (open_source(str(root), "test").read(0) == 2).all()


def test_a_class_missing_from_one_split_does_not_shift_the_others(tree):
    root = tree("train/a/1.png", "train/b/2.png", "train/c/3.png", "val/b/4.png", "val/c/5.png")
    train, test = open_source(root), open_source(root, "test")
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert test.labels.tolist() == [1, 2]


def test_val_goes_before_test(tree):
    root = tree("train/a/1.png", "train/b/2.png", "val/a/3.png", "test/4.png")
    assert names(open_source(root, "test")) == ["a/3.png"]


def test_train_and_test_among_other_classes_are_classes(tree):
    root = tree("train/1.png", "test/2.png", "bus/3.png", "car/deep/4.png")
    assert not has_split(root)
    source = open_source(root)
    assert source.class_names == ("bus", "car", "test", "train")
    assert len(source) == 4


def test_other_folders_without_images_leave_splits_alone(tree):
    root = tree("train/a/1.png", "train/b/2.png", "val/a/3.png", ".hidden/4.png")
    (root / "labels").mkdir()
    (root / "labels" / "words.txt").write_text("words")
    assert has_split(root)
    assert names(open_source(root, "test")) == ["a/3.png"]


def test_images_next_to_the_splits_are_named(tree):
    root = tree("train/a/1.png", "train/b/2.png", "val/a/3.png", "stray.png")
    assert open_source(root).ignored == {"image next to the folders of the splits (stray.png)": 1}


def test_any_other_folder_is_a_training_split(tree):
    root = tree("train/a/1.png", "train/b/2.png", "val/a/3.png")
    assert names(open_source(root / "train")) == ["a/1.png", "b/2.png"]
    assert not has_split(root / "train")
    with pytest.raises(UserError, match=r"no test split in .*train; expected sub-folders train and one of val"):
        open_source(root / "train", "test")


def test_a_path_object_is_a_folder_even_when_it_has_a_sets_name(tree, monkeypatch, tmp_path):
    tree("1.png", root="photos")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("./photos")) == 1
    assert len(open_source("photos")) == 19 * 120


def test_errors_help(tmp_path, tree):
    for wrong, close in (("cifar", "cifar10"), ("imagenete", "imagenette"), ("Photos", "photos")):
        with pytest.raises(UserError, match=f"'{wrong}', which does not exist.*did you mean .*{close}"):
            open_source(wrong)
    with pytest.raises(UserError, match="check the path; the sets are photos"):
        open_source(tmp_path / "zzzz")
    file = tree("1.png") / "1.png"
    with pytest.raises(UserError, match=f"got the file .*give the folder that it lies in: {file.parent}"):
        open_source(file)
    assert not has_split(file)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match="no files at all"):
        open_source(tmp_path)
    (tmp_path / "a.cr2").write_bytes(b"x")
    (tmp_path / "b.cr2").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no images in .*2 \.cr2.*expected files ending in .*\.jpg"):
        open_source(tmp_path)


def test_photos_has_both_splits_and_comes_in_gray():
    assert has_split("photos")
    train, gray = open_source("photos", "test"), open_source("photos", "test", channels=1)
    assert train.images.shape[1:] == (64, 64, 3)
    assert gray.images.shape[1:] == (64, 64, 1)
    assert abs(gray.images.mean() - train.images.mean()) < 10
    with pytest.raises(UserError, match="5 channels"):
        open_source("photos", channels=5)


@pytest.mark.parametrize("name", ["cifar10", "stl10", "imagenette", "dtd"])
def test_no_network_is_a_user_error(name, tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("SMALTI_DATA", str(tmp_path / "sets"))
    with pytest.raises(UserError, match=f"no {name}: download failed with .*unreachable.*SMALTI_DATA"):
        open_source(name)


def test_every_set_names_a_torchvision_class():
    import torchvision.datasets

    assert set_names()[0] == "photos"
    for entry in named._DOWNLOADS.values():
        assert hasattr(torchvision.datasets, entry.cls)
        assert set(entry.options) == {"train", "test"}


def test_file_sets_are_read_where_torchvision_unpacks_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_DATA", str(tmp_path))
    for split, value in (("train", "braided"), ("test", "woven")):
        image = tmp_path / "dtd" / "dtd" / "images" / value / "1.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes(encoded(smooth(), "JPEG"))
        labels = tmp_path / "dtd" / "dtd" / "labels"
        labels.mkdir(exist_ok=True)
        (labels / f"{split}1.txt").write_text(f"{value}/1.jpg\n")
    source = open_source("dtd")
    assert names(source) == ["dtd/dtd/images/braided/1.jpg"]
    assert source.labels.tolist() == [0]
    assert source.class_names == ("braided",)
    assert source.read(0).shape == (40, 60, 3)


def test_imagenette_is_read_from_its_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_DATA", str(tmp_path))
    wnids = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079"]
    wnids += ["n03394916", "n03417042", "n03425413", "n03445777", "n03888257"]
    for split in ("train", "val"):
        for wnid in wnids:
            image = tmp_path / "imagenette2-160" / split / wnid / f"{split}.JPEG"
            image.parent.mkdir(parents=True)
            image.write_bytes(encoded(smooth(), "JPEG"))
    test = open_source("imagenette", "test")
    assert isinstance(test, FolderSource)
    assert test.name == "imagenette/test"
    assert names(test)[1] == "n02102040/val.JPEG"
    assert test.labels.tolist() == list(range(10))
    assert names(open_source("imagenette"))[0] == "n01440764/train.JPEG"


def test_channel_first_sets_come_channel_last_and_minus_one_is_no_label():
    data = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    labeled = SimpleNamespace(data=data, labels=np.array([1, 0], np.uint8), classes=["cat", "dog"])
    source = named._channels_first("stl10/test", labeled, 3)
    assert isinstance(source, ArraySource)
    np.testing.assert_array_equal(source.images[1, :, :, 2], data[1, 2])
    assert np.shares_memory(source.images, data)
    assert source.labels.tolist() == [1, 0]
    assert source.class_names == ("cat", "dog")
    partly = SimpleNamespace(data=data, labels=np.array([1, -1]), classes=["cat", "dog"])
    source = named._channels_first("stl10/train", partly, 3)
    assert source.labels is None
    assert source.class_names == ()
