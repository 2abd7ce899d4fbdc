"""What every place that images come from has in common."""

from typing import Protocol

import numpy as np


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
