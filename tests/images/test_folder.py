"""Which files of a folder are images, in which order, and how they are labeled."""

import os

import numpy as np
import pytest

from smalti.errors import BadImageError, UserError
from smalti.images.folder import FolderSource

from .conftest import encoded, smooth


def names(source):
    return [source.image_name(index) for index in range(len(source))]


def test_finds_images_at_every_depth_in_a_fixed_order(tree):
    root = tree("b/2.png", "a/deep/er/1.PNG", "a/9.png", "a/10.png")
    assert names(FolderSource(root)) == ["a/10.png", "a/9.png", "a/deep/er/1.PNG", "b/2.png"]


def test_reads_the_pixels_of_the_file_that_it_names(tree):
    source = FolderSource(tree("b/2.png", "a/1.png"))  # filled with 0 and 1
    assert names(source) == ["a/1.png", "b/2.png"]
    assert (source.read(0) == 1).all()
    assert (source.read(1) == 0).all()


@pytest.mark.parametrize(
    ("files", "labels", "classes"),
    [
        (("cat/1.png", "dog/x/2.png", "dog/3.png"), [0, 1, 1], ("cat", "dog")),
        (("1.png", "2.png", "cat/1.png", "dog/2.png"), None, ()),
        (("cat/1.png", "cat/x/2.png"), None, ()),
        (("1.png", "2.png"), None, ()),
    ],
)
def test_labels_come_from_the_first_folder(tree, files, labels, classes):
    source = FolderSource(tree(*files))
    assert source.class_names == classes
    if labels is None:
        assert source.labels is None
    else:
        assert source.labels.dtype == np.int64
        assert source.labels.tolist() == labels


def test_one_image_next_to_the_classes_is_left_out_and_named(tree):
    source = FolderSource(tree("stray.png", "cat/1.png", "dog/2.png", "dog/3.png"))
    assert names(source) == ["cat/1.png", "dog/2.png", "dog/3.png"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.ignored == {"image next to the classes (stray.png)": 1}


def test_many_are_counted_and_a_majority_turns_labels_off(tree):
    strays = [f"{number}.png" for number in range(5)]
    few = FolderSource(tree(*strays, *(f"{name}/{number}.png" for name in "ab" for number in range(3)), root="few"))
    assert few.ignored == {"images next to the classes (0.png, 1.png, 2.png, ...)": 5}
    assert len(few.labels) == len(few) == 6
    assert (few.read(0) == 5).all()
    most = FolderSource(tree(*strays, "a/1.png", "b/2.png", root="most"))
    assert most.labels is None
    assert len(most) == 7
    assert most.ignored == {}


def test_given_classes_settle_the_numbers(tree):
    source = FolderSource(tree("cat/1.png", "dog/2.png"), class_names=("ant", "cat", "dog"))
    assert source.labels.tolist() == [1, 2]
    with pytest.raises(UserError, match="'dog'"):
        FolderSource(source.root, class_names=("ant", "cat"))


def test_other_files_are_counted_and_hidden_ones_passed_over(tree):
    root = tree("a/1.png", "a/.hidden.png", ".cache/2.png")
    for name in ("notes.txt", "a/more.TXT", "LICENSE"):
        (root / name).write_text("words")
    source = FolderSource(root)
    assert names(source) == ["a/1.png"]
    assert source.ignored == {".txt": 2, "": 1}


def test_links_are_followed_but_not_in_circles(tree, tmp_path):
    outside = tree("1.png", root="outside")
    root = tree("a/2.png")
    (root / "a" / "linked.png").symlink_to(outside / "1.png")
    (root / "b").symlink_to(outside, target_is_directory=True)
    (root / "a" / "back").symlink_to(root, target_is_directory=True)
    assert names(FolderSource(root)) == ["a/2.png", "a/linked.png", "b/1.png"]


def test_a_link_to_itself_is_no_folder(tree):
    root = tree("a/1.png")
    (root / "loop").symlink_to(root / "loop")
    (root / "loop.png").symlink_to(root / "loop.png")
    source = FolderSource(root)
    assert names(source) == ["loop.png", "a/1.png"]
    assert source.ignored == {"": 1}
    with pytest.raises(BadImageError, match="cannot be opened"):
        source.read(0)


def test_pipes_and_devices_are_not_opened(tree):
    root = tree("a.png")
    os.mkfifo(root / "b.png")
    (root / "c.png").symlink_to("/dev/zero")
    source = FolderSource(root)
    assert names(source) == ["a.png", "b.png", "c.png"]
    for index in (1, 2):
        with pytest.raises(BadImageError, match="not a regular file"):
            source.read(index)


def test_names_that_are_no_utf_8_can_be_read_and_shown(tree):
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    source = FolderSource(tree(f"{odd}/{odd}.png", f"{odd}/{odd}.{odd}", "b/1.png", f"{odd}.png", root=odd))
    assert names(source) == ["b/1.png", f"{odd}/{odd}.png"]
    assert (source.read(1) == 0).all()
    for shown in (source.name, *source.ignored):
        assert "caf\\xe9" in shown
        assert shown.encode()


def test_channels_are_brought_to_what_was_asked_for(tree):
    root = tree("a.png")
    (root / "a.png").write_bytes(encoded(smooth()[..., 0], "PNG"))
    assert FolderSource(root, channels=3).read(0).shape == (40, 60, 3)
    assert FolderSource(root, channels=1).read(0).shape == (40, 60, 1)
    with pytest.raises(BadImageError, match="has 1 channels, 5"):
        FolderSource(root, channels=5).read(0)


def test_unusable_files_say_why(tree):
    root = tree("a.png", "b.png", "c.png")
    source = FolderSource(root)
    (root / "a.png").write_bytes(b"")
    (root / "b.png").write_text("this is text")
    (root / "c.png").unlink()
    for index, reason in enumerate(["empty file", "text", "cannot be opened: No such file"]):
        with pytest.raises(BadImageError, match=reason):
            source.read(index)


def test_a_folder_that_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be listed"):
        FolderSource(tmp_path / "nowhere")
