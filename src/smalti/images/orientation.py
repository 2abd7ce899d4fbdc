"""Turning an image upright by the orientation number of EXIF and TIFF."""

import numpy as np


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the turn or flip that a camera recorded.

    Args:
        image: (H, W) or (H, W, C) as stored.
        orientation: 1 to 8 as EXIF defines them; any other number leaves the image as it is.

    Returns:
        A view of the image, its first two axes swapped for orientations 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
