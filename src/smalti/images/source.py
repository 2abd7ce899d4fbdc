"""What every place that images come from has in common, and a part of one."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ImageSource(Protocol):
    """Images by number, decoded when asked for."""

    name: str
    """What the user gave: a folder or the name of a set."""
    channels: int
    """The channel count of every image that `read` returns."""
    labels: np.ndarray | None
    """(N,) int64, indices into `class_names`; None when unlabeled."""
    class_names: tuple[str, ...]
    """Empty when unlabeled."""

    def __len__(self) -> int: ...

    def image_name(self, index: int) -> str:
        """A name that a user can find the image by: its path below the root, or "cifar10/train/17"."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Image `index`: (H, W, channels), C-contiguous, uint8, uint16 or float32, or BadImageError."""
        ...


class Subset:
    """The images of a source at the given indices.

    Args:
        source: the images.
        indices: (n,) which of them, in which order.
    """

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.name, self.channels, self.class_names = source.name, source.channels, source.class_names
        self.labels = None if source.labels is None else source.labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def image_name(self, index: int) -> str:
        return self._source.image_name(int(self._indices[index]))

    def read(self, index: int) -> np.ndarray:
        return self._source.read(int(self._indices[index]))
