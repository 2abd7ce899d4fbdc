"""Whether the images of a run that is continued are those that it began with: by names, and by a sample of contents.

What may have changed is the folder's own path, and files that cannot be used: one may be newly damaged, and those that
the run had already skipped may have been removed.
"""

import hashlib
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from smalti.errors import BadImageError, UserError
from smalti.images.source import ImageSource
from smalti.text import printable

_SAMPLE = 64  # images, evenly spaced, whose pixels are compared
_UNREADABLE = "unreadable"


class WithRemoved:
    """A source in which images that are gone still have their numbers, so that the order of all others stays.

    Args:
        source: the images that are there.
        names: of the images that were there, in their order.
    """

    def __init__(self, source: ImageSource, names: list[str]) -> None:
        number = {source.image_name(index): index for index in range(len(source))}
        self._source, self._names = source, names
        self._number = [number.get(name, -1) for name in names]
        self.name, self.channels, self.class_names = source.name, source.channels, source.class_names
        self.labels = None if source.labels is None else source.labels[np.maximum(self._number, 0)]

    def __len__(self) -> int:
        return len(self._names)

    def image_name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> np.ndarray:
        if self._number[index] < 0:
            raise BadImageError("removed")
        return self._source.read(self._number[index])


def describe(source: ImageSource) -> dict[str, Any]:
    """What `same_images` needs to know of the images that a run begins with, of JSON types."""
    sample = np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(np.int64)).tolist()
    return {
        "name": source.name,
        "images": len(source),
        "names": _digest_of_names([source.image_name(index) for index in range(len(source))]),
        "sample": {printable(source.image_name(index)): _content(source, index) for index in sample},
    }


def same_images(source: ImageSource, began: dict[str, Any], skipped: Collection[str]) -> ImageSource:
    """The images that a run began with, out of those that are there now.

    Args:
        source: what is there now.
        began: what `describe` said of the images at the run's beginning.
        skipped: names of images that the run could not use.

    Raises:
        UserError: there are other images, or images of other contents.
    """
    names = [source.image_name(index) for index in range(len(source))]
    if _digest_of_names(names) != began.get("names"):
        # Removed files go back to where their folder would list them.
        names = sorted({*names, *skipped}, key=_as_listed)
        if _digest_of_names(names) != began.get("names"):
            raise UserError(
                f"other images in {source.name} than the run began with ({len(source)}, not {began.get('images')})",
                "the same files; only those in skipped.txt may go",
                "give the same folder, or another --out",
            )
        source = WithRemoved(source, names)
    sample = began.get("sample", {})
    for index, name in enumerate(names):
        if sample.get(printable(name), _UNREADABLE) == _UNREADABLE:
            continue
        if _content(source, index) not in (sample[printable(name)], _UNREADABLE):
            raise UserError(
                f"other pixels in {name} than the run began with",
                "the same images",
                "bring them back, or give another --out",
            )
    return source


def _as_listed(path: str) -> list[tuple[bool, str]]:
    """Sorts as `FolderSource` lists: the files of a folder first, then its folders."""
    *folders, file = path.split(os.sep)
    return [*((True, folder) for folder in folders), (False, file)]


def _digest_of_names(names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def _content(source: ImageSource, index: int) -> str:
    try:
        image = source.read(index)
    except BadImageError:
        return _UNREADABLE
    return hashlib.sha256(repr((image.shape, image.dtype.str)).encode() + image.tobytes()).hexdigest()[:16]
