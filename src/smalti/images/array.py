"""Images of one size that lie in memory."""

from collections.abc import Mapping

import numpy as np

from smalti.errors import BadImageError
from smalti.images.layout import as_image
from smalti.images.paths import PathBuffer


class ArraySource:
    """A source whose images are one array, which device pipelines may take whole.

    Args:
        name: what the user gave, for example "cifar10/train".
        images: (N, H, W, C) uint8; any strides, so that a channel-first set need not be copied.
        labels: (N,) integers, or None when unlabeled.
        class_names: one a class; empty when unlabeled.
        image_names: one an image; without them image 17 is "<name>/17".
        bad: reasons by the numbers of images that could not be read.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
        image_names: PathBuffer | None = None,
        bad: Mapping[int, str] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(f"images must be (N, H, W, C) uint8, not {images.shape} {images.dtype}")
        if any(kept is not None and len(kept) != len(images) for kept in (labels, image_names)):
            raise ValueError("labels and image_names must be as many as the images")
        self.name = name
        self.images = images
        self.channels = int(images.shape[3])
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names = class_names
        self._image_names = image_names
        self._bad = bad or {}

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        """The name given for image `index`, or "<name>/<index>"."""
        return f"{self.name}/{index}" if self._image_names is None else self._image_names[index]

    def read(self, index: int) -> np.ndarray:
        """Image `index`, (H, W, C) uint8, C-contiguous; treat it as read-only, it may be a view of `images`.

        Raises:
            BadImageError: it is one of `bad`.
        """
        if index in self._bad:
            raise BadImageError(self._bad[index])
        return as_image(self.images[index])
