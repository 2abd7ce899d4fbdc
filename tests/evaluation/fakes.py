"""Image sources made on the spot."""

import numpy as np

from smalti.errors import BadImageError


class FakeSource:
    """Images given as arrays; None stands for one that cannot be read."""

    name = "fake"

    def __init__(self, images: list[np.ndarray | None], labels: list[int] | None = None) -> None:
        self.images = images
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names = () if labels is None else tuple(f"class{i}" for i in range(max(labels) + 1))
        self.channels = next(image.shape[2] for image in images if image is not None)

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        return f"fake/{index}"

    def read(self, index: int) -> np.ndarray:
        image = self.images[index]
        if image is None:
            raise BadImageError("truncated")
        return image
