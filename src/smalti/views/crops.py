"""Random resized crops and their augmentation: the two-crop and multi-crop views.

Legend: B images, R crops of each.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from smalti.checks import require_fraction
from smalti.errors import UserError
from smalti.views.canvas import Regions
from smalti.views.plan import Composition, Floats, Ints, Plan, flatten
from smalti.views.rng import ViewRNG

_ATTEMPTS = 10  # as torchvision's RandomResizedCrop, which then falls back to a central crop


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strengths and probabilities of what happens to a crop; the defaults are MoCo-v2's (arXiv:2003.04297).

    Attributes:
        interpolation: of the resize to the view, antialiased: "bilinear", or "bicubic" as in BYOL and DINO.
        flip: probability of a mirror image.
        jitter: probability of a change of brightness, contrast, saturation and hue, in random order.
        brightness: b, of which "factor" draws a factor from [1 - b, 1 + b], "shift" what is added from [-b, b].
        brightness_mode: "factor", or BYOL's "shift" of values in [0, 1], which moves a view's mean twice as far.
        contrast: factor drawn from [1 - c, 1 + c].
        saturation: likewise.
        hue: turn drawn from [-h, h], in [0, 0.5].
        gray: probability of losing the colors.
        blur: probability of a Gaussian blur.
        sigma: range of its sigma, pixels of the view.
        solarize: probability of inverting values from 128/255 up (BYOL).

    Example:
        >>> from smalti.views import Augmentation, Crop
        >>> Crop(size=32, augmentation=Augmentation(blur=0, solarize=0.2)).augmentation.solarize
        0.2
    """

    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    brightness_mode: Literal["factor", "shift"] = "factor"
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        require_fraction(self, "flip", "jitter", "gray", "blur", "solarize", "brightness", "contrast", "saturation")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(f"interpolation {self.interpolation!r}", "'bilinear' or 'bicubic'", "use one of them")
        if self.brightness_mode not in ("factor", "shift"):
            raise UserError(f"brightness_mode {self.brightness_mode!r}", "'factor' or 'shift'", "use one of them")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"augmentation.hue {self.hue}", "a part of the color wheel", "use 0 to 0.5")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise UserError(f"augmentation.sigma {self.sigma}", "a range above 0", "use e.g. 0.1 2.0")


@dataclass(frozen=True, kw_only=True)
class Crop(Composition):
    """`count` crops of every image, each a canvas of its own.

    One `Crop` is a standard view; `Crop(size=112, scale=(0.1, 0.6), count=4)` adds small crops (multi-crop).

    Attributes:
        size: side of the view, pixels.
        scale: range of the crop's share of the image's area.
        ratio: range of its width over its height.
        count: crops of each image.
        augmentation: what then happens to it.

    Example:
        >>> from smalti.views import Collate, Crop
        >>> images = [torch.rand(3, 40, 60) for _ in range(4)]
        >>> standard, small = Collate([Crop(size=32), Crop(size=16, scale=(0.1, 0.6), count=4)])(images)
        >>> tuple(standard.pixels.shape), tuple(small.pixels.shape)
        ((4, 3, 32, 32), (16, 3, 16, 16))
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    count: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_crop(self.size, self.scale, self.ratio, self.count)

    @property
    def canvas_size(self) -> int:
        return self.size

    @property
    def standard(self) -> bool:
        return self.count == 1

    def resized(self, factor: float) -> "Crop":
        return replace(self, size=round(self.size * factor))

    def plan(self, sizes: Ints, rng: ViewRNG) -> Plan:
        """One canvas for each crop, image by image: N = B * count, K = 1."""
        canvases = len(sizes) * self.count
        source = torch.arange(len(sizes)).repeat_interleave(self.count)[:, None]  # (N, 1)
        return Plan(
            tiles=flatten(draw_tiles(sizes, rng, self.count, self.scale, self.ratio, self.augmentation)),
            tile_size=self.size,
            slots=np.arange(canvases)[:, None, None],
            offset=np.zeros((canvases, 2), dtype=np.int64),
            canvas_size=self.size,
            regions=Regions(
                source=source,
                boxes=torch.tensor([0.0, 0.0, self.size, self.size]).expand(canvases, 1, 4),
                weight=torch.ones(canvases, 1),
                whole=True,
            ),
        )


def check_crop(size: int, scale: tuple[float, float], ratio: tuple[float, float], count: int) -> None:
    """Raise UserError for a crop that cannot be made."""
    if size < 8:
        raise UserError(f"crop size {size} px", "at least 8 px", "give a larger size")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(f"crop scale {scale}", "a range within (0, 1]", "use e.g. 0.2 1.0")
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"crop ratio {ratio}", "a range above 0", "use e.g. 0.75 1.333")
    if count < 1:
        raise UserError(f"{count} crops of an image", "1 or more", "give a larger count")


def draw_tiles(
    sizes: Ints,
    rng: ViewRNG,
    crops: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    augmentation: Augmentation,
) -> dict[str, NDArray]:
    """The fields of `Tiles`, each (B, R) or (B, R, 4), for R crops of images of `sizes` (B, 2: width, height)."""
    tiles: dict[str, NDArray] = {
        "image": np.repeat(np.arange(len(sizes))[:, None], crops, axis=1),
        "crop": _draw_boxes(sizes, rng, crops, scale, ratio),
        "bicubic": np.full((len(sizes), crops), augmentation.interpolation == "bicubic"),
        "flip": rng.per_image("flip", crops)[..., 0] < augmentation.flip,
    }
    return tiles | _draw_blur(rng, crops, augmentation) | _draw_colors(rng, crops, augmentation)


def _draw_boxes(sizes: Ints, rng: ViewRNG, crops: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Ints:
    width, height = sizes[:, 0, None, None], sizes[:, 1, None, None]
    area = width * height * _between(rng.per_image("area", crops, _ATTEMPTS), scale)
    aspect = np.exp(_between(rng.per_image("aspect", crops, _ATTEMPTS), (np.log(ratio[0]), np.log(ratio[1]))))
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)  # (B, R, attempts)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(axis=-1)[..., None]
    w, h = (np.take_along_axis(side, first, axis=-1)[..., 0] for side in (w, h))  # (B, R)

    width, height = width[..., 0], height[..., 0]
    any_fits = fits.any(axis=-1)
    fallback_w = np.minimum(width, np.rint(height * ratio[1])).astype(np.int64).clip(1)
    fallback_h = np.minimum(height, np.rint(width / ratio[0])).astype(np.int64).clip(1)
    w, h = np.where(any_fits, w, fallback_w), np.where(any_fits, h, fallback_h)
    x = np.floor(rng.per_image("x", crops)[..., 0] * (width - w + 1)).astype(np.int64)
    y = np.floor(rng.per_image("y", crops)[..., 0] * (height - h + 1)).astype(np.int64)
    x, y = np.where(any_fits, x, (width - w) // 2), np.where(any_fits, y, (height - h) // 2)
    return np.stack([x, y, x + w, y + h], axis=-1)


def _draw_blur(rng: ViewRNG, crops: int, augmentation: Augmentation) -> dict[str, NDArray]:
    happens = rng.per_image("blur", crops)[..., 0] < augmentation.blur
    sigma = _between(rng.per_image("sigma", crops)[..., 0], augmentation.sigma)
    return {"sigma": np.where(happens, sigma, 0.0)}


def _draw_colors(rng: ViewRNG, crops: int, augmentation: Augmentation) -> dict[str, NDArray]:
    jitter = rng.per_image("jitter", crops)[..., 0] < augmentation.jitter
    colors: dict[str, NDArray] = {}
    for name in ("brightness", "contrast", "saturation"):
        strength = getattr(augmentation, name)
        factor = _between(rng.per_image(name, crops)[..., 0], (1 - strength, 1 + strength))
        colors[name] = np.where(jitter, factor, 1.0)
    colors["shift"] = np.zeros_like(colors["brightness"])
    if augmentation.brightness_mode == "shift":
        colors["shift"], colors["brightness"] = colors["brightness"] - 1, np.ones_like(colors["shift"])
    turn = _between(rng.per_image("hue", crops)[..., 0], (-augmentation.hue, augmentation.hue))
    colors["hue"] = np.where(jitter, turn, 0.0)
    # In a random order of the four changes only contrast and saturation feel on which side of hue they stand: either
    # change of brightness gives the same before the others as after them, up to clamping.
    rank = rng.per_image("order", crops, 3)
    colors["contrast_last"] = rank[..., 0] > rank[..., 2]
    colors["saturation_last"] = rank[..., 1] > rank[..., 2]
    colors["gray"] = rng.per_image("grey", crops)[..., 0] < augmentation.gray
    colors["solarize"] = np.where(rng.per_image("solarise", crops)[..., 0] < augmentation.solarize, 128 / 255, 2.0)
    return colors


def _between(u: Floats, bounds: tuple[float, float]) -> Floats:
    return bounds[0] + u * (bounds[1] - bounds[0])
