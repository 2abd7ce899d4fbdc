"""Images to check parts on.

Legend: B images, H and W their height and width, C channels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.images.statistics import PixelStatistics

STATISTICS = PixelStatistics(low=0.0, high=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


class Images:
    """A source of B images, see `textured`.

    Args:
        count: B.
        classes: image i is of class i modulo this; 0 for images without labels.
        side: longest side, pixels.

    Example:
        >>> from smalti.testing import Images
        >>> source = Images(5, classes=2)
        >>> len(source), source.labels.tolist(), source.read(0).dtype
        (5, [0, 1, 0, 1, 0], dtype('uint8'))
    """

    name = "images"
    channels = 3

    def __init__(self, count: int, classes: int = 0, side: int = 40) -> None:
        self.images = textured(count, side=side)
        self.labels = np.arange(count) % classes if classes else None
        self.class_names = tuple(f"class {number}" for number in range(classes))

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        return f"images/{index}"

    def read(self, index: int) -> NDArray[Any]:
        return self.images[index]


def textured(count: int, channels: int = 3, side: int = 64, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Images (H, W, C) of sizes near `side` pixels with ramps, edges and a little grain, as photographs have.

    Example:
        >>> from smalti.testing import textured
        >>> [image.shape[2] for image in textured(2, channels=5)]
        [5, 5]
    """
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        height, width = random.integers(side // 2, side, 2)
        y, x = np.mgrid[:height, :width] / side
        image = np.empty((height, width, channels))
        for channel in range(channels):
            a, b, c = random.uniform(-9, 9, 3)
            image[..., channel] = 128 + 80 * np.sin(a * x + b * y + c) + 30 * np.sign(np.sin(b * x - a * y))
        images.append((image + random.normal(0, 5, image.shape)).clip(0, 255).astype(np.uint8))
    return images
