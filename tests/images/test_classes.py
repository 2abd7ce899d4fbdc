"""Some classes of a data set are what a folder with these classes alone would be."""

import re

import numpy as np
import pytest

from smalti.errors import UserError
from smalti.images.catalog import open_source
from smalti.images.classes import read_classes


@pytest.fixture
def listed(tmp_path):
    """Writes a list of classes: `listed("b\\nc\\n")`."""

    def write(content):
        path = tmp_path / "classes.txt"
        path.write_text(content)
        return path

    return write


def test_imagenet_100_is_a_hundred_classes_of_the_paper():
    names = read_classes("imagenet100")
    assert len(set(names)) == len(names) == 100
    assert all(re.fullmatch(r"n\d{8}", name) for name in names)
    assert {"n02869837", "n01749939", "n13037406", "n01820546", "n03424325", "n02090622"} <= set(names)


def test_a_list_may_have_comments_and_empty_lines(listed):
    assert read_classes(listed("# two birds\n\n  wren \nowl\r\n\n")) == ("owl", "wren")


@pytest.mark.parametrize("split", ["train", "test"])
def test_some_classes_are_as_a_folder_of_these_alone(tree, listed, split):
    files = [f"{part}/{name}/{n}.png" for part in ("train", "val") for name in "abcd" for n in range(3)]
    some = open_source(tree(*files), split, classes=listed("d\nb\n"))
    alone = open_source(tree(*(file for file in files if file.split("/")[1] in "bd"), root="alone"), split)
    assert some.class_names == alone.class_names == ("b", "d")
    assert some.labels.tolist() == alone.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [some.image_name(i) for i in range(len(some))] == [alone.image_name(i) for i in range(len(alone))]
    first = files.index(f"{'train' if split == 'train' else 'val'}/b/0.png")
    assert (some.read(0) == first).all()


def test_the_name_tells_of_the_choice(tree, listed):
    root, path = tree("a/1.png", "b/2.png"), listed("b")
    assert open_source(root, classes=path).name == f"{root} ({path})"


def test_named_sets_have_classes_too(listed):
    cats = open_source("photos", "test", classes=listed("cat\nastronaut\n"))
    everything = open_source("photos", "test")
    assert cats.class_names == ("astronaut", "cat")
    index = int(np.flatnonzero(everything.labels == everything.class_names.index("cat"))[0])
    np.testing.assert_array_equal(cats.read(int(np.flatnonzero(cats.labels == 1)[0])), everything.read(index))


def test_missing_classes_are_counted_and_the_first_named(tree, listed):
    root = tree("a/1.png", "b/2.png")
    with pytest.raises(UserError, match=r"lacks 4 of the 5 classes of .*classes.txt \(c, d, e, \.\.\.\)"):
        open_source(root, classes=listed("f\ne\nd\nc\nb\n"))
    with pytest.raises(UserError, match=r"lacks 1 of the 2 classes of .* \(c\)"):
        open_source(root, classes=listed("b\nc\n"))
    with pytest.raises(UserError, match="lacks 100 of the 100 classes of imagenet100"):
        open_source(root, classes="imagenet100")


def test_images_without_labels_have_no_classes(tree, listed):
    with pytest.raises(UserError, match=r"images without labels.*leave out --classes"):
        open_source(tree("1.png", "2.png"), classes=listed("a\n"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "names none"),
        (b"# nothing\n", "names none"),
        (b"a\nb\na\n", "names a twice"),
        (b"\xff\xfe\x00", "not a text"),
    ],
)
def test_lists_that_are_none_are_refused(listed, content, reason):
    path = listed("")
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_classes(path)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"imagenet10 \(No such file.*expected imagenet100, or a text file"):
        read_classes("imagenet10")
    with pytest.raises(UserError, match="directory"):
        read_classes(tmp_path)
