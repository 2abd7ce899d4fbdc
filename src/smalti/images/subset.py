"""Some of the images of a source."""

import numpy as np
from numpy.typing import NDArray

from smalti.images.source import ImageSource


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
