"""Color spaces that separate lightness from color, scaled as CMC's released code does (arXiv:1906.05849).

Legend: N images, H x W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# sRGB primaries and D65 white (IEC 61966-2-1), the white of the 2 degree observer.
_XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
# Range of L, a and b over all colors of sRGB.
_LAB_RANGE = ((0.0, 100.0), (-86.183, 98.233), (-107.857, 94.478))
# Studio range of 8 bits (ITU-R BT.601): Y from 16 to 235, Cb and Cr from 16 to 240.
_YCBCR_OF_RGB = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OF_BLACK = (16.0, 128.0, 128.0)
# With which the released code normalizes Y, Cb and Cr. Neither is the middle or half of the range above.
_YCBCR_MEAN, _YCBCR_STD = (116.151, 121.080, 132.342), (109.500, 111.855, 111.964)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (N, 3, H, W) in [0, 1] -> CIE L in [0, 100], a and b in about [-108, 98]."""
    low, high = rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(rgb > 0.04045, high, low)
    xyz = _mix(_XYZ_OF_RGB, linear) / _channels(rgb, _WHITE)
    dark, light = 7.787 * xyz + 16 / 116, xyz.clamp(min=0.008856) ** (1 / 3)
    x, y, z = torch.where(xyz > 0.008856, light, dark).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [0, 1] -> Y in [16, 235], Cb and Cr in [16, 240]."""
    return _mix(_YCBCR_OF_RGB, rgb) + _channels(rgb, _YCBCR_OF_BLACK)


def scaled_lab(rgb: Tensor) -> Tensor:
    """L, a and b, each in [-1, 1] over the colors of sRGB."""
    low, high = rgb.new_tensor(_LAB_RANGE).T[..., None, None]  # each (3, 1, 1)
    return (2 * rgb_to_lab(rgb) - low - high) / (high - low)


def scaled_ycbcr(rgb: Tensor) -> Tensor:
    """Y, Cb and Cr, each in about [-1.04, 1.09]."""
    return (rgb_to_ycbcr(rgb) - _channels(rgb, _YCBCR_MEAN)) / _channels(rgb, _YCBCR_STD)


SPACES: dict[str, Callable[[Tensor], Tensor]] = {"lab": scaled_lab, "ycbcr": scaled_ycbcr}


def _channels(like: Tensor, values: tuple[float, ...]) -> Tensor:
    """(3, 1, 1), one value a channel."""
    return like.new_tensor(values)[:, None, None]


def _mix(matrix: tuple[tuple[float, ...], ...], pixels: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", pixels.new_tensor(matrix), pixels)
