"""Public data sets by name, downloaded and unpacked by torchvision on first use."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np

from smalti.errors import UserError
from smalti.images.array import ArraySource
from smalti.images.folder import FileSource, FolderSource
from smalti.images.layout import to_channels
from smalti.images.photos import photos
from smalti.images.source import ImageSource

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class _Download:
    """How one torchvision class maps to a source.

    Args:
        cls: name of the class in `torchvision.datasets`.
        options: keyword arguments of that class for each split.
        to_source: builds the source from the name of the split, the torchvision data set and the channel count.
    """

    cls: str
    options: Mapping[Split, Mapping[str, Any]]
    to_source: Callable[[str, Any, int], ImageSource]


def data_folder() -> Path:
    """Where downloads are kept: the environment variable SMALTI_DATA, or ~/.cache/smalti."""
    return Path(os.environ.get("SMALTI_DATA") or Path.home() / ".cache" / "smalti")


def set_names() -> tuple[str, ...]:
    """Names of all sets, the embedded one first."""
    return ("photos", *_DOWNLOADS)


def open_set(name: str, split: Split, channels: int) -> ImageSource:
    """Open a set by its name, downloading it where that is needed.

    Raises:
        UserError: the download failed.
    """
    if name == "photos":
        return _with_channels(photos(split), channels)
    entry = _DOWNLOADS[name]
    import torchvision.datasets  # here, because it takes a second that a folder of images need not wait for

    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dataset = getattr(torchvision.datasets, entry.cls)(str(folder), download=True, **entry.options[split])
    except (OSError, RuntimeError) as error:
        raise _download_failed(name, folder, error) from error
    return entry.to_source(f"{name}/{split}", dataset, channels)


def _download_failed(name: str, folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error.reason if isinstance(error, URLError) else error).split())
    return UserError(
        f"no {name}: download failed with {reason[:160]}",
        f"a network, or the unpacked files already in {folder}",
        "connect and try again, or set SMALTI_DATA to the folder that has them",
    )


def _with_channels(source: ArraySource, channels: int) -> ArraySource:
    if channels == source.channels:
        return source
    if channels != 1:
        raise UserError(f"{channels} channels for {source.name}", "3, or 1 for gray", "ask for 3 channels")
    gray = np.stack([to_channels(np.ascontiguousarray(image), 1) for image in source.images])
    return ArraySource(source.name, gray, source.labels, source.class_names)


def _channels_last(name: str, dataset: Any, channels: int) -> ImageSource:
    """CIFAR: `data` is (N, H, W, 3)."""
    return _with_channels(ArraySource(name, dataset.data, dataset.targets, tuple(dataset.classes)), channels)


def _channels_first(name: str, dataset: Any, channels: int) -> ImageSource:
    """STL-10 and SVHN: `data` is (N, 3, H, W), seen as channels last without a copy; label -1 is no label."""
    labels = None if (np.asarray(dataset.labels) < 0).any() else dataset.labels
    names = tuple(getattr(dataset, "classes", map(str, range(10)))) if labels is not None else ()
    return _with_channels(ArraySource(name, dataset.data.transpose(0, 2, 3, 1), labels, names), channels)


def _listed_files(files: str) -> Callable[[str, Any, int], ImageSource]:
    """Sets whose torchvision class lists its files in the attribute `files` and their classes in `_labels`."""

    def to_source(name: str, dataset: Any, channels: int) -> ImageSource:
        root = data_folder()
        paths = (os.path.relpath(path, root) for path in getattr(dataset, files))
        return FileSource(name, root, paths, dataset._labels, tuple(dataset.classes), channels)

    return to_source


def _imagenette(name: str, dataset: Any, channels: int) -> ImageSource:
    split = "val" if name.endswith("/test") else "train"
    source = FolderSource(data_folder() / "imagenette2-160" / split, channels)
    source.name = name
    return source


def _splits(train: Mapping[str, Any], test: Mapping[str, Any]) -> Mapping[Split, Mapping[str, Any]]:
    return {"train": train, "test": test}


_BY_FLAG = _splits({"train": True}, {"train": False})
_BY_NAME = _splits({"split": "train"}, {"split": "test"})
_DOWNLOADS: Mapping[str, _Download] = {
    "cifar10": _Download(cls="CIFAR10", options=_BY_FLAG, to_source=_channels_last),
    "cifar100": _Download(cls="CIFAR100", options=_BY_FLAG, to_source=_channels_last),
    # for pre-training: the 100000 images without labels and the 5000 with, as one unlabeled set
    "stl10": _Download(
        cls="STL10", options=_splits({"split": "train+unlabeled"}, {"split": "test"}), to_source=_channels_first
    ),
    # for probes: only the images with labels
    "stl10-labeled": _Download(cls="STL10", options=_BY_NAME, to_source=_channels_first),
    "svhn": _Download(cls="SVHN", options=_BY_NAME, to_source=_channels_first),
    "imagenette": _Download(
        cls="Imagenette",
        options=_splits({"split": "train", "size": "160px"}, {"split": "val", "size": "160px"}),
        to_source=_imagenette,
    ),
    "food101": _Download(cls="Food101", options=_BY_NAME, to_source=_listed_files("_image_files")),
    "flowers102": _Download(cls="Flowers102", options=_BY_NAME, to_source=_listed_files("_image_files")),
    "dtd": _Download(cls="DTD", options=_BY_NAME, to_source=_listed_files("_image_files")),
    "pets": _Download(
        cls="OxfordIIITPet",
        options=_splits({"split": "trainval"}, {"split": "test"}),
        to_source=_listed_files("_images"),
    ),
}
