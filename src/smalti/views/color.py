"""Color changes as matrices: brightness, contrast and saturation fold into one affine map before and one after hue.

All three keep the gray axis, so within a map their order does not matter (up to clamping), and contrast's pivot is the
tile's mean luma, which is linear in its mean color. A shift of brightness moves that pivot as far as the pixels, so
it adds the same wherever it stands. Applied to RGB only.

Legend: T tiles.
"""

import numpy as np

from smalti.views.plan import Floats, Tiles

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as torchvision's rgb_to_grayscale


def before_hue(tiles: Tiles) -> tuple[Floats, Floats, Floats]:
    """Factors (T, 3, 3) of the pixel and (T, 3, 3) of the tile's mean color, and (T,) what is added to their sum."""
    pixel, mean = _fold(
        tiles.brightness,
        np.where(tiles.contrast_last, 1.0, tiles.contrast),
        np.where(tiles.saturation_last, 1.0, tiles.saturation),
    )
    return pixel, mean, tiles.shift


def after_hue(tiles: Tiles) -> tuple[Floats, Floats, Floats]:
    """The same for what follows hue, with the loss of colors last."""
    pixel, mean = _fold(
        np.ones(len(tiles)),
        np.where(tiles.contrast_last, tiles.contrast, 1.0),
        np.where(tiles.saturation_last, tiles.saturation, 1.0),
    )
    to_gray = np.where(tiles.gray[:, None, None], np.tile(LUMA, (3, 1)), np.eye(3))
    return to_gray @ pixel, to_gray @ mean, np.zeros(len(tiles))


def _fold(brightness: Floats, contrast: Floats, saturation: Floats) -> tuple[Floats, Floats]:
    gray = np.tile(LUMA, (3, 1))  # (3, 3): every channel becomes the luma
    saturate = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * gray
    pixel = (contrast * brightness)[:, None, None] * saturate
    mean = ((1 - contrast) * brightness)[:, None, None] * gray
    return pixel, mean
