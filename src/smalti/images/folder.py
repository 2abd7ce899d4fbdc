"""Images that are files: a plain list of them, and all of those below a folder."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from smalti.errors import BadImageError, UserError
from smalti.images.decode import decode
from smalti.images.layout import check_file_size, to_channels
from smalti.images.paths import PathBuffer, printable

_COMMON = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".npy")
_FURTHER = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx", ".dcm")
IMAGE_SUFFIXES = frozenset((*_COMMON, *_FURTHER))
_NAMED = 3  # of the images without a class


class FileSource:
    """A source over a list of files.

    Args:
        name: what the user gave.
        root: the folder that the paths are relative to.
        paths: one an image, relative to `root`.
        labels: (N,) integers, or None when unlabeled.
        class_names: one a class; empty when unlabeled.
        channels: what every image is brought to, see `to_channels`.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        paths: Iterable[str],
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
        channels: int = 3,
    ) -> None:
        self.name = name
        self.root = os.fspath(root)
        self.paths = PathBuffer(paths)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names = class_names
        self.channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    def image_name(self, index: int) -> str:
        """The path of image `index` below the root."""
        return self.paths[index]

    def read(self, index: int) -> np.ndarray:
        """Image `index`, (H, W, channels), C-contiguous, uint8, uint16 or float32.

        Raises:
            BadImageError: the file cannot be read or decoded, or has channels that no rule brings to `channels`.
        """
        path = os.path.join(self.root, self.paths[index])
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, and a device never end
                raise BadImageError("not a regular file")
            check_file_size(status.st_size)
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise BadImageError(f"cannot be opened: {error.strerror or error}") from error
        return to_channels(decode(data), self.channels)


class FolderSource(FileSource):
    """All images below a folder, in an order that does not depend on the file system.

    Images in sub-folders are labeled by the first folder on their way, when there are two such folders or more and
    most images are in them; the few that lie next to these folders have no class and are left out. Any other layout is
    unlabeled. Hidden files and folders are skipped; links are followed, but not in circles.

    Args:
        root: the folder.
        channels: what every image is brought to, see `to_channels`.
        class_names: the classes in the order of their labels, where another split settles it; without them, the
            sorted names of the folders that hold images.

    Raises:
        UserError: the folder cannot be listed, or holds an image of a class that is not in `class_names`.
    """

    ignored: dict[str, int]
    """How many files there are of each suffix that is not an image's ("" for none), and which images have no class."""

    def __init__(self, root: str | Path, channels: int = 3, class_names: tuple[str, ...] | None = None) -> None:
        ignored: Counter[str] = Counter()
        folder_of: list[str] = []  # first folder of each run of images; files of a folder come in one run
        counts: list[int] = []

        def noting_folders() -> Iterator[str]:
            for path in _image_paths(os.fspath(root), ignored):
                folder = path.partition(os.sep)[0] if os.sep in path else ""
                if not folder_of or folder_of[-1] != folder:
                    folder_of.append(folder)
                    counts.append(0)
                counts[-1] += 1
                yield path

        super().__init__(name=printable(os.fspath(root)), root=root, paths=noting_folders(), channels=channels)
        names = tuple(sorted({*folder_of} - {""})) if class_names is None else class_names
        if len(names) >= 2 and folder_of[:1] == [""]:  # files of the root itself come first
            if 2 * counts[0] < len(self):
                ignored.update(strays([self.paths[index] for index in range(counts[0])], "the classes"))
                self.paths = PathBuffer(self.paths[index] for index in range(counts[0], len(self)))
                folder_of, counts = folder_of[1:], counts[1:]
            else:
                names = ()
        self.ignored = dict(ignored)
        if len(names) >= 2:
            self._label(folder_of, counts, names)

    def _label(self, folder_of: list[str], counts: list[int], names: tuple[str, ...]) -> None:
        unknown = sorted(set(folder_of) - set(names))
        if unknown:
            raise UserError(
                f"images of the class {unknown[0]!r} in {self.root}",
                "the classes " + ", ".join(names[:5]) + ("..." if len(names) > 5 else ""),
                "move that folder away or give the other split a folder of the same name",
            )
        index_of = {name: index for index, name in enumerate(names)}
        self.class_names = names
        self.labels = np.repeat(np.array([index_of[folder] for folder in folder_of], dtype=np.int64), counts)


def strays(names: Sequence[str], neighbors: str) -> dict[str, int]:
    """An entry of `FolderSource.ignored` for images that lie next to the folders that count; none without images."""
    if not names:
        return {}
    listed = ", ".join(map(printable, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
    return {f"image{'s' * (len(names) > 1)} next to {neighbors} ({listed})": len(names)}


def holds_images(root: str | Path) -> bool:
    """Whether there is an image at any depth below a folder, by the names of its files."""
    return next(_image_paths(os.fspath(root), Counter()), None) is not None


def _image_paths(root: str, ignored: Counter[str]) -> Iterator[str]:
    """Paths of all images below `root`, relative to it: the files of a folder first, then its folders, sorted.

    Other files are counted in `ignored` by suffix.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda e: e.name)
            status = os.stat(os.path.join(root, folder))
        except OSError as error:
            raise UserError(
                f"the folder {os.path.join(root, folder)}, which cannot be listed ({error.strerror or error})",
                "a folder that you may read",
                "check the path and its permissions",
            ) from error
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link back to a folder that this one lies in
            continue
        folders = []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if _is_folder(entry):
                folders.append((path, above | {identity}))
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                yield path
            else:
                ignored[printable(suffix)] += 1
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is, or leads to, a folder; a link to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False
