"""Small sets of one size are loaded whole; anything else is left on disk."""

import numpy as np
import pytest

from smalti.errors import BadImageError, UserError
from smalti.images.array import ArraySource
from smalti.images.folder import FolderSource
from smalti.images.ledger import BadFiles
from smalti.images.memory import load_into_memory

from .conftest import encoded

FILES = tuple(f"{kind}/{index:03d}.png" for kind in ("cat", "dog") for index in range(150))


def test_images_names_and_labels_stay_together(tree):
    source = FolderSource(tree(*FILES))
    loaded = load_into_memory(source, BadFiles(None, len(source)))
    assert loaded.images.shape == (300, 4, 6, 3)
    np.testing.assert_array_equal(loaded.images[:, 0, 0, 0], np.arange(300) % 256)
    np.testing.assert_array_equal(loaded.labels, source.labels)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.image_name(151) == "dog/001.png"
    assert (loaded.read(151) == 151).all()


def test_bad_files_are_recorded_and_keep_their_numbers(tree, tmp_path):
    root = tree(*FILES)
    for bad in (FILES[0], FILES[200]):  # the first of all, and one of a later class
        (root / bad).write_bytes(b"")
    source = FolderSource(root)
    ledger = BadFiles(tmp_path, len(source))
    loaded = load_into_memory(source, ledger)
    assert ledger.names == (FILES[0], FILES[200])
    assert len(loaded) == 300
    assert loaded.image_name(200) == FILES[200]
    for bad in (0, 200):
        with pytest.raises(BadImageError, match="empty file"):
            loaded.read(bad)
    assert (loaded.read(199) == 199).all()
    assert np.bincount(loaded.labels).tolist() == [150, 150]


def test_too_many_bad_files_end_it(tree):
    root = tree(*FILES)
    for bad in FILES[20:40]:
        (root / bad).write_bytes(b"")
    source = FolderSource(root)
    with pytest.raises(UserError, match="11 bad files of 300"):
        load_into_memory(source, BadFiles(None, len(source)))


@pytest.mark.parametrize("odd", [np.zeros((4, 7, 3), np.uint8), np.zeros((4, 6), np.uint16)])
def test_one_image_that_differs_leaves_all_on_disk(tree, odd):
    root = tree(*FILES)
    (root / FILES[-1]).write_bytes(encoded(odd, "PNG"))
    source = FolderSource(root)
    assert load_into_memory(source, BadFiles(None, len(source))) is None


@pytest.mark.parametrize(("limits", "loads"), [({"max_side": 5}, False), ({"limit_bytes": 143}, False), ({}, True)])
def test_limits(tree, limits, loads):
    source = FolderSource(tree("a.png", "b.png"))  # 2 x 72 bytes
    loaded = load_into_memory(source, BadFiles(None, 2), **({"max_side": 6, "limit_bytes": 144} | limits))
    assert (loaded is not None) == loads


def test_what_is_in_memory_already_is_returned():
    source = ArraySource("x", np.zeros((2, 4, 4, 3), np.uint8))
    assert load_into_memory(source, BadFiles(None, 2)) is source


def test_array_source_names_and_copies():
    channels_first = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    source = ArraySource("cifar10/train", channels_first.transpose(0, 2, 3, 1), labels=np.array([1, 0], np.uint8))
    assert source.image_name(1) == "cifar10/train/1"
    assert source.labels.dtype == np.int64
    assert source.channels == 3
    assert source.read(1).flags.c_contiguous
    np.testing.assert_array_equal(source.read(1)[..., 2], channels_first[1, 2])


@pytest.mark.parametrize(
    "arguments", [{"images": np.zeros((2, 4, 4), np.uint8)}, {"images": np.zeros((2, 4, 4, 1))}, {"labels": [1]}]
)
def test_array_source_refuses_what_does_not_fit(arguments):
    with pytest.raises(ValueError, match="must be"):
        ArraySource(**({"name": "x", "images": np.zeros((2, 4, 4, 1), np.uint8)} | arguments))
