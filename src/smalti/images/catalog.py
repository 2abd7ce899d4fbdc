"""From what a user writes after a command, a folder or the name of a set, to a source of images."""

import difflib
import os
from pathlib import Path

from smalti.errors import UserError
from smalti.images.classes import only_classes
from smalti.images.folder import IMAGE_SUFFIXES, FolderSource, holds_images, strays
from smalti.images.named import Split, open_set, set_names
from smalti.images.source import ImageSource

_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("val", "valid", "validation", "test")  # the first that is there; `test` of ImageNet has no labels


def open_source(data: str | Path, split: Split = "train", channels: int = 3, classes: str | Path = "") -> ImageSource:
    """Open a folder of images, or a data set by its name.

    A folder with a sub-folder `train` (or `training`) and one of `val`, `valid`, `validation`, `test` has these as
    its splits, with one numbering of the classes for both, unless there are images in further sub-folders: then all of
    them are classes. Any other folder is a training split as a whole; in particular a folder `.../train` given directly
    does not reach for its neighbor `.../val`.

    Args:
        data: a folder, or as text one of `set_names()`; a folder of such a name is written "./photos".
        split: which part.
        channels: what every image is brought to.
        classes: "imagenet100", or a text file, to open the images of these classes alone, see `only_classes`.

    Raises:
        UserError: there is no such folder, set, split or class, no image in it, or a download failed.
    """
    source = _open_all(data, split, channels)
    return only_classes(source, classes) if classes else source


def has_split(data: str | Path) -> bool:
    """Whether `open_source(data, "test")` will find a test split; False also for what cannot be opened at all."""
    if isinstance(data, str) and data in set_names():
        return True
    return Path(data).is_dir() and _split_folders(Path(data)) is not None


def _open_all(data: str | Path, split: Split, channels: int) -> ImageSource:
    if isinstance(data, str) and data in set_names():
        return open_set(data, split, channels)
    folder = _existing_folder(data)
    splits = _split_folders(folder)
    if splits is not None:
        source = _not_empty(FolderSource(splits[split], channels, _shared_classes(splits)))
        loose = [name for name in sorted(os.listdir(folder)) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        source.ignored |= strays([name for name in loose if (folder / name).is_file()], "the folders of the splits")
        return source
    if split == "test":
        raise UserError(
            f"no test split in {folder}",
            f"sub-folders {_TRAIN_FOLDERS[0]} and one of {', '.join(_TEST_FOLDERS)}",
            "arrange the images so, or give the test images as a folder of their own",
        )
    return _not_empty(FolderSource(folder, channels))


def _existing_folder(data: str | Path) -> Path:
    folder = Path(data)
    if folder.is_dir():
        return folder
    expected = "a folder of images or a set's name"
    if folder.exists():
        raise UserError(f"the file {folder}", expected, f"give the folder that it lies in: {folder.parent}")
    close = difflib.get_close_matches(str(data).lower(), set_names(), n=3)
    advice = (
        f"did you mean {' or '.join(close)}?" if close else f"check the path; the sets are {', '.join(set_names())}"
    )
    raise UserError(f"{str(data)!r}, which does not exist", expected, advice)


def _split_folders(folder: Path) -> dict[Split, Path] | None:
    """The folders of both splits, or None when they are not both there, or lie among others with images."""
    by_name = {name.lower(): folder / name for name in sorted(os.listdir(folder), reverse=True)}
    train = [by_name[name] for name in _TRAIN_FOLDERS if name in by_name and by_name[name].is_dir()]
    test = [by_name[name] for name in _TEST_FOLDERS if name in by_name and by_name[name].is_dir()]
    if not train or not test:
        return None
    others = [by_name[name] for name in {*by_name} - {*_TRAIN_FOLDERS, *_TEST_FOLDERS} if name[0] != "."]
    if any(other.is_dir() and holds_images(other) for other in others):
        return None
    return {"train": train[0], "test": test[0]}


def _shared_classes(splits: dict[Split, Path]) -> tuple[str, ...]:
    """Class names of both splits together: a class that one split lacks must not shift the labels of the others."""
    with_repeats = (entry for folder in splits.values() for entry in os.scandir(folder))
    return tuple(sorted({entry.name for entry in with_repeats if os.path.isdir(entry) and entry.name[0] != "."}))


def _not_empty(source: FolderSource) -> FolderSource:
    if len(source):
        return source
    others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(source.ignored.items()))
    raise UserError(
        f"no images in {source.name} ({'other files: ' + others if others else 'no files at all'})",
        f"files ending in {' '.join(sorted(IMAGE_SUFFIXES))}",
        "check the path",
    )
