"""Color spaces that part lightness from color, scaled as CMC takes them (arXiv:1906.05849 and its released code).

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
# Full range, as in JPEG (ITU-R BT.601, T.871); Cb and Cr without their offset.
_YCBCR_OF_RGB = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (N, 3, H, W) in [0, 1] -> CIE L in [0, 100], a and b in about [-108, 98]."""
    low, high = rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(rgb > 0.04045, high, low)
    xyz = _mix(_XYZ_OF_RGB, linear) / rgb.new_tensor(_WHITE)[:, None, None]
    dark, light = 7.787 * xyz + 16 / 116, xyz.clamp(min=0.008856) ** (1 / 3)
    x, y, z = torch.where(xyz > 0.008856, light, dark).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [0, 1] -> Y in [0, 1], Cb and Cr in [-0.5, 0.5]."""
    return _mix(_YCBCR_OF_RGB, rgb)


def scaled_lab(rgb: Tensor) -> Tensor:
    """L, a and b, each in [-1, 1] over the colors of sRGB."""
    low, high = rgb.new_tensor(_LAB_RANGE).T[..., None, None]  # each (3, 1, 1)
    return (2 * rgb_to_lab(rgb) - low - high) / (high - low)


def scaled_ycbcr(rgb: Tensor) -> Tensor:
    """Y, Cb and Cr, each in [-1, 1]."""
    return 2 * rgb_to_ycbcr(rgb) - rgb.new_tensor((1.0, 0.0, 0.0))[:, None, None]


SPACES: dict[str, Callable[[Tensor], Tensor]] = {"lab": scaled_lab, "ycbcr": scaled_ycbcr}


def _mix(matrix: tuple[tuple[float, ...], ...], pixels: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", pixels.new_tensor(matrix), pixels)
