"""The host executor: a plan rendered on the CPU, one image at a time, each tile straight into its canvas.

8-bit images stay 8-bit throughout; others are float32 in [0, 1]. Arithmetic is left to SIMD libraries: antialiased
resizing to torch, colors and blur to OpenCV.
"""

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from smalti.views.color import after_hue, before_hue
from smalti.views.plan import Bools, Floats, Plan

Pixels = NDArray[Any]  # uint8, or float32 in [0, 1]


class HostRenderer:
    """Canvases of one plan, filled image by image so that no more than one decoded image is held.

    Args:
        plan: what to render; pixels that no tile covers stay 0 until they are normalized.
        channels: of the images.
        dtype: np.uint8, or np.float32 for values in [0, 1].
    """

    def __init__(self, plan: Plan, channels: int, dtype: np.dtype) -> None:
        side = plan.canvas_size
        self.canvases = np.zeros((plan.num_canvases, side, side, channels), dtype=dtype)
        self._plan = plan
        self._corners = plan.corners()
        self._before = _Affine(*before_hue(plan.tiles))
        self._after = _Affine(*after_hue(plan.tiles))
        order = np.argsort(plan.tiles.image, kind="stable")
        starts = np.searchsorted(plan.tiles.image[order], np.arange(plan.tiles.image.max() + 2))
        self._tiles_of = [order[a:b] for a, b in pairwise(starts)]

    def add(self, position: int, image: Pixels) -> None:
        """Render every tile of the image (H, W, C) at `position` of the batch."""
        for tile in self._tiles_of[position]:
            self._place(tile, self._render(tile, image))

    def pixels(self) -> Tensor:
        """(N, C, H, W) in channels-last order of memory."""
        return torch.from_numpy(self.canvases).permute(0, 3, 1, 2)

    def _render(self, tile: int, image: Pixels) -> Pixels:
        tiles = self._plan.tiles
        x0, y0, x1, y1 = tiles.crop[tile]
        stride = self._plan.stride
        mode = "bicubic" if tiles.bicubic[tile] else "bilinear"
        pixels = _resize(image[y0:y1, x0:x1], self._plan.tile_size * stride, mode)
        if tiles.sigma[tile] > 0:
            pixels = _blur(pixels, float(tiles.sigma[tile]))
        if pixels.shape[2] == 3:
            pixels = self._color(tile, pixels)
        if tiles.flip[tile]:
            pixels = _with_channels(cv2.flip(pixels, 1))
        return pixels[::stride, ::stride]

    def _color(self, tile: int, pixels: Pixels) -> Pixels:
        tiles = self._plan.tiles
        pixels = self._before(tile, pixels)
        if tiles.hue[tile] != 0:
            pixels = _turn_hue(pixels, float(tiles.hue[tile]))
        pixels = self._after(tile, pixels)
        if tiles.solarize[tile] <= 1:
            pixels = _solarize(pixels, float(tiles.solarize[tile]))
        return pixels

    def _place(self, tile: int, pixels: Pixels) -> None:
        canvas, x, y = self._corners[tile]
        size, side = self._plan.tile_size, self._plan.canvas_size
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + size, side), min(y + size, side)
        if x0 < x1 and y0 < y1:
            self.canvases[canvas, y0:y1, x0:x1] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]


class _Affine:
    """One affine change of colors for each tile.

    Args:
        of_pixel: (T, 3, 3) factors of the pixel.
        of_mean: (T, 3, 3) factors of the tile's mean color.
        added: (T,) to values in [0, 1].
    """

    def __init__(self, of_pixel: Floats, of_mean: Floats, added: Floats) -> None:
        self._added = added
        self._matrix = np.concatenate([of_pixel, np.zeros((len(of_pixel), 3, 1))], axis=2)  # (T, 3, 4)
        self._of_mean = of_mean
        self._reads_mean: Bools = np.asarray(of_mean.any(axis=(1, 2)))
        self._changes: Bools = np.asarray(self._reads_mean | (of_pixel != np.eye(3)).any(axis=(1, 2)) | (added != 0))

    def __call__(self, tile: int, pixels: Pixels) -> Pixels:
        if not self._changes[tile]:
            return pixels
        matrix = self._matrix[tile].copy()
        if self._reads_mean[tile]:
            matrix[:, 3] = self._of_mean[tile] @ cv2.mean(pixels)[:3]
        matrix[:, 3] += self._added[tile] * (255 if pixels.dtype == np.uint8 else 1)
        changed = cv2.transform(pixels, matrix)
        return changed if pixels.dtype == np.uint8 else changed.clip(0, 1)


def _resize(pixels: Pixels, size: int, mode: str) -> Pixels:
    # Only images whose every stride says channels last take torch's vectorized 8-bit path as they are: neither a part
    # of a larger image nor an axis added by indexing does.
    image = torch.from_numpy(np.ascontiguousarray(pixels).reshape(1, *pixels.shape)).permute(0, 3, 1, 2)
    resized = F.interpolate(image, (size, size), mode=mode, antialias=True, align_corners=False)
    if mode == "bicubic" and resized.is_floating_point():
        resized = resized.clamp(0, 1)  # it overshoots at edges; 8-bit values are clamped by torch
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    # OpenCV's GaussianBlur takes twice as long on 8 bits, and rounds between its two passes.
    kernel = cv2.getGaussianKernel(2 * blur_radius(sigma, len(pixels)) + 1, sigma)
    return _with_channels(cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101))


def _turn_hue(pixels: Pixels, turn: float) -> Pixels:
    if pixels.dtype == np.uint8:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
        row = np.zeros(hsv.shape[1:], dtype=np.uint8)  # a whole row, because NumPy is slow on every third byte
        row[:, 0] = round(turn * 256) % 256
        hsv += row  # the wheel has 256 steps and wraps around by itself
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + turn * 360) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _solarize(pixels: Pixels, threshold: float) -> Pixels:
    if pixels.dtype == np.uint8:
        levels = np.arange(256, dtype=np.uint8)
        return cv2.LUT(pixels, np.where(levels >= threshold * 255, 255 - levels, levels).astype(np.uint8))
    return np.where(pixels >= threshold, 1 - pixels, pixels)


def _with_channels(pixels: Pixels) -> Pixels:
    return pixels[..., None] if pixels.ndim == 2 else pixels  # OpenCV drops a single channel


def blur_radius(sigma: float, size: int) -> int:
    """Pixels on either side after which the Gaussian is cut, at 3 sigma; both executors cut alike."""
    return min(math.ceil(3 * sigma), size - 1)
