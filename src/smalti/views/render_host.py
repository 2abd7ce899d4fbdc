"""The host executor: a plan rendered on the CPU, one image at a time, each tile straight into its canvas.

8-bit images stay 8-bit throughout; others are float32 in [0, 1]. Arithmetic is left to SIMD libraries: antialiased
resizing to torch, colours and blur to OpenCV.
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

from smalti.views.colour import after_hue, before_hue
from smalti.views.plan import Floats, Plan

Pixels = NDArray[Any]  # uint8, or float32 in [0, 1]


class HostRenderer:
    """Canvases of one plan, filled image by image so that no more than one decoded image is held.

    Args:
        plan: what to render; pixels that no tile covers stay 0 until they are normalised.
        channels: of the images.
        dtype: np.uint8, or np.float32 for values in [0, 1].
    """

    def __init__(self, plan: Plan, channels: int, dtype: np.dtype) -> None:
        side = plan.canvas_size
        self.canvases = np.zeros((plan.num_canvases, side, side, channels), dtype=dtype)
        self._plan = plan
        self._corners = plan.corners()
        self._before = before_hue(plan.tiles)
        self._after = after_hue(plan.tiles)
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
        pixels = _resize(image[y0:y1, x0:x1], self._plan.tile_size)
        if tiles.sigma[tile] > 0:
            pixels = _blur(pixels, float(tiles.sigma[tile]))
        if pixels.shape[2] == 3:
            pixels = self._colour(tile, pixels)
        return pixels[:, ::-1] if tiles.flip[tile] else pixels

    def _colour(self, tile: int, pixels: Pixels) -> Pixels:
        tiles = self._plan.tiles
        pixels = _affine(pixels, self._before[0][tile], self._before[1][tile])
        if tiles.hue[tile] != 0:
            pixels = _turn_hue(pixels, float(tiles.hue[tile]))
        pixels = _affine(pixels, self._after[0][tile], self._after[1][tile])
        if tiles.solarise[tile] <= 1:
            pixels = _solarise(pixels, float(tiles.solarise[tile]))
        return pixels

    def _place(self, tile: int, pixels: Pixels) -> None:
        canvas, x, y = self._corners[tile]
        size, side = self._plan.tile_size, self._plan.canvas_size
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + size, side), min(y + size, side)
        if x0 < x1 and y0 < y1:
            self.canvases[canvas, y0:y1, x0:x1] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]


def _resize(pixels: Pixels, size: int) -> Pixels:
    # Viewed as (1, C, H, W) in channels-last memory this takes torch's vectorised uint8 path without a copy.
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    side = 2 * blur_radius(sigma, len(pixels)) + 1
    return _with_channels(cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101))


def _affine(pixels: Pixels, of_pixel: Floats, of_mean: Floats) -> Pixels:
    if np.array_equal(of_pixel, np.eye(3)) and not of_mean.any():
        return pixels
    mean = np.array(cv2.mean(pixels)[:3])
    changed = cv2.transform(pixels, np.concatenate([of_pixel, (of_mean @ mean)[:, None]], axis=1))
    return changed if pixels.dtype == np.uint8 else changed.clip(0, 1)


def _turn_hue(pixels: Pixels, turn: float) -> Pixels:
    if pixels.dtype == np.uint8:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # the wheel has 256 steps and wraps around by itself
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + turn * 360) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _solarise(pixels: Pixels, threshold: float) -> Pixels:
    if pixels.dtype == np.uint8:
        levels = np.arange(256, dtype=np.uint8)
        return cv2.LUT(pixels, np.where(levels >= threshold * 255, 255 - levels, levels).astype(np.uint8))
    return np.where(pixels >= threshold, 1 - pixels, pixels)


def _with_channels(pixels: Pixels) -> Pixels:
    return pixels[..., None] if pixels.ndim == 2 else pixels  # OpenCV drops a single channel


def blur_radius(sigma: float, size: int) -> int:
    """Pixels on either side after which the Gaussian is cut, at 3 sigma; both executors cut alike."""
    return min(math.ceil(3 * sigma), size - 1)
