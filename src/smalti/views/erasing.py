"""Crops of which a box is erased: Cutout and Random Erasing, the controls of image mixture (arXiv:2003.05438).

Legend: N canvases, one an image, L side of a canvas, A attempts.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from smalti.checks import require_count, require_fraction
from smalti.errors import UserError
from smalti.views.altered import AlteredCrop, inside
from smalti.views.canvas import Canvas
from smalti.views.plan import Floats, Ints, Plan
from smalti.views.rng import ViewRNG

_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True)
class ErasingPlan(Plan):
    """Crops, and what is erased of them.

    Attributes:
        erased: (N, 4) xyxy, whole pixels, right and bottom exclusive; empty for nothing.
        fill: (N,) value of the erased pixels after normalization.
    """

    erased: Ints
    fill: Floats


@dataclass(frozen=True, kw_only=True)
class Cutout(AlteredCrop):
    """A square around a random center is set to the mean color (arXiv:1708.04552); what leaves the canvas is lost.

    Attributes:
        probability: of erasing.
        side: of the square, pixels.

    Example:
        >>> from smalti.views import Collate, Cutout
        >>> (erased,) = Collate([Cutout(size=32, side=16, probability=1.0)])([torch.ones(3, 40, 60)])
        >>> bool((erased.pixels == 0).any())
        True
    """

    probability: float = 0.5
    side: int = 112

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self, "probability")
        require_count(self, "side")

    def resized(self, factor: float) -> Self:
        return replace(super().resized(factor), side=round(self.side * factor))

    def plan(self, sizes: Ints, rng: ViewRNG) -> ErasingPlan:
        """One canvas an image: N = B, K = 1."""
        count = len(sizes)
        center = np.floor(self.size * _per_image(rng, "cutout centre", 2)).astype(np.int64)
        corner = center - self.side // 2
        boxes = np.concatenate([corner, corner + self.side], axis=1).clip(0, self.size)
        happens = _per_image(rng, "cutout", 1) < self.probability
        crops = self.plan_crops(sizes, rng)
        return ErasingPlan(**vars(crops), erased=np.where(happens, boxes, 0), fill=np.zeros(count))

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        return erase(canvas, plan)


@dataclass(frozen=True, kw_only=True)
class RandomErasing(AlteredCrop):
    """A box of random area and shape takes one random value (arXiv:1708.04896).

    That paper draws a value for every pixel; the released control of image mixture draws one from [0, 1) for the whole
    box, on normalized pixels, which is done here.

    Attributes:
        probability: of erasing.
        area: range of the box's share of the canvas.
        aspect: r, its height over its width is drawn from [r, 1 / r]; in (0, 1].

    Example:
        >>> from smalti.views import Augmentation, Collate, RandomErasing
        >>> view = RandomErasing(size=32, probability=1.0, augmentation=Augmentation(jitter=0, gray=0, blur=0))
        >>> (erased,) = Collate([view])([torch.zeros(3, 40, 60)])
        >>> len(erased.pixels[0, 0].unique())
        2
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self, "probability")
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise UserError(f"area {self.area}", "a range within (0, 1)", "use e.g. 0.02 0.4")
        if not 0 < self.aspect <= 1:
            raise UserError(f"aspect {self.aspect}", "a number in (0, 1]", "use e.g. 0.3")

    def plan(self, sizes: Ints, rng: ViewRNG) -> ErasingPlan:
        """One canvas an image: N = B, K = 1."""
        happens = _per_image(rng, "erasing", 1) < self.probability
        crops = self.plan_crops(sizes, rng)
        return ErasingPlan(
            **vars(crops),
            erased=np.where(happens, self._draw_boxes(rng), 0),
            fill=_per_image(rng, "erasing fill", 1)[:, 0],
        )

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        return erase(canvas, plan)

    def _draw_boxes(self, rng: ViewRNG) -> Ints:
        """(N, 4) the first of A boxes that fits the canvas (Algorithm 1); empty where none does."""
        low, high = self.area
        area = self.size**2 * (low + (high - low) * _per_image(rng, "erasing area", _ATTEMPTS))  # (N, A)
        span = 1 / self.aspect - self.aspect
        aspect = self.aspect + span * _per_image(rng, "erasing aspect", _ATTEMPTS)
        sides = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=-1).astype(np.int64)  # (N, A, 2)
        fits = sides.max(axis=-1) < self.size
        first = fits.argmax(axis=1)[:, None, None]
        side = np.take_along_axis(sides, first, axis=1)[:, 0] * fits.max(axis=1, keepdims=True)  # (N, 2)
        corner = np.floor((self.size - side) * _per_image(rng, "erasing corner", 2)).astype(np.int64)
        return np.concatenate([corner, corner + side], axis=1)


def erase(canvas: Canvas, plan: Plan) -> Canvas:
    """The canvases with the plan's boxes filled."""
    assert isinstance(plan, ErasingPlan)
    fill = torch.from_numpy(plan.fill).to(canvas.pixels)[:, None, None, None]
    return replace(canvas, pixels=torch.where(inside(plan.erased, canvas.pixels), fill, canvas.pixels))


def _per_image(rng: ViewRNG, field: str, count: int) -> Floats:
    """(N, count) uniform numbers."""
    return rng.per_image(field, numbers=count)[:, 0]
