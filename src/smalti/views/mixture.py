"""Image mixture (Shen et al. 2020, arXiv:2003.05438), and Un-Mix, its later version with two targets (AAAI 2022).

Every image's own crop is rendered once; `apply` then blends the finished canvases of a block with one another, and
pastes boxes of one onto another.

Legend: N canvases, one an image, n images in a blend, m boxes on a canvas, L side of a canvas, b images in a block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from smalti.checks import require_count, require_fraction, require_not_negative, require_positive
from smalti.errors import UserError
from smalti.views.altered import AlteredCrop, inside
from smalti.views.canvas import Canvas
from smalti.views.plan import Bools, Floats, Ints, Plan
from smalti.views.rng import ViewRNG


@dataclass(frozen=True, kw_only=True)
class MixturePlan(Plan):
    """Crops, and how they are mixed: first they are blended, then boxes are pasted onto the blends.

    Attributes:
        layers: (N, n) canvases that are blended, the canvas itself last.
        weights: (N, n) their parts in the blend, which add up to 1.
        context: (N,) factor of the blend under the boxes.
        pasted: (N, m) canvases out of which the boxes are cut.
        boxes: (N, m, 4) xyxy, whole pixels, right and bottom exclusive, the last on top; empty for nothing pasted.
    """

    layers: Ints
    weights: Floats
    context: Floats
    pasted: Ints
    boxes: Ints


@dataclass(frozen=True, kw_only=True)
class Mixture(AlteredCrop):
    """One crop of every image, mixed with those of others: globally, by regions, or both; fit to be a standard view.

    Global mixture blends n images one after the other (Eq. 3). Region mixture keeps the own image as the context,
    decays it, and pastes boxes of n - 1 others (Eq. 4, 5). Where both happen the boxes are cut out of blends and pasted
    onto a blend, as in the released code. The positive of a canvas is always its own image. Partners are different
    images of the same block. All mixtures of a batch draw alike, so query and key of an image are mixed with the same
    images in the same way (released code).

    Eq. 3 does not say which of its images is the own one, nor does the text say what a probability is of. By default
    the own image is the last, which dominates, and all partners are mixed in or none. The released code begins with
    the own image and draws for every partner (`own_first`, `each_partner`): of 3 partners with a probability of 0.5
    one or more is mixed in 7 times of 8, and then 0.34 of a blend is its own image on average.

    The context decays towards 0 on normalized pixels, the mean color, as in the released code, not towards black.

    The defaults are the best of the paper's tables for MoCo; for CMC a global probability of 0.1 is better. The
    released defaults are 2 partners, a probability of 0.1 for both, and decay 1.

    Attributes:
        global_probability: of a global mixture.
        global_images: n of Eq. 3, 2 or more.
        global_alpha: of Beta(alpha, alpha), from which every coefficient alpha_k of Eq. 3 is drawn.
        region_probability: of a region mixture.
        region_images: n of Eq. 4 and 5, 2 or more: the context and n - 1 boxes.
        region_beta: of Beta(beta, beta), from which the part of the canvas that a CutMix box leaves free is drawn.
        decay: lambda_Decay of Eq. 4, in [0, 1]; 1 for none.
        own_first: the own image is I_1 of Eq. 3, else I_n.
        each_partner: the probabilities are those of every partner by itself, and the context decays only if the first
            one's box is pasted; else they are of all partners together.

    Example:
        >>> from smalti.views import Collate, Mixture
        >>> images = [torch.rand(3, 40, 60) for _ in range(8)]
        >>> query, key = Collate([Mixture(size=32), Mixture(size=32)])(images)
        >>> query.regions.source.flatten().tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    global_probability: float = 0.5
    global_images: int = 4
    global_alpha: float = 1.0
    region_probability: float = 0.1
    region_images: int = 5
    region_beta: float = 1.0
    decay: float = 0.2
    own_first: bool = False
    each_partner: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self, "global_probability", "region_probability", "decay")
        require_count(self, "global_images", "region_images", least=2)
        require_positive(self, "global_alpha", "region_beta")

    def check_block(self, block: int) -> None:
        _check_block(block, max(self.global_images, self.region_images))

    def plan(self, sizes: Ints, rng: ViewRNG) -> MixturePlan:
        """One canvas an image: N = B, K = 1."""
        self.check_block(rng.block)
        alike = replace(rng, view=0)  # whichever the view, so that query and key are mixed alike
        blended, pasted = self.global_images - 1, self.region_images - 1
        by_regions = self._draw_mixed(alike, "region", pasted, self.region_probability)
        draw = partial(alike.per_canvas, canvases=len(sizes), numbers=pasted)
        boxes = _draw_boxes(draw, self.region_beta, self.size)
        return MixturePlan(
            **vars(self.plan_crops(sizes, rng)),
            layers=np.column_stack([draw_partners(alike, "global partners", blended), np.arange(len(sizes))]),
            weights=self._draw_weights(alike),
            context=np.where(by_regions[:, 0], self.decay, 1.0),
            pasted=draw_partners(alike, "region partners", pasted),
            boxes=np.where(by_regions[..., None], boxes, 0),
        )

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        """Eq. 3, then Eq. 4 and 5."""
        assert isinstance(plan, MixturePlan)
        blended = blend(canvas.pixels, plan)
        return replace(canvas, pixels=paste(blended, blended, plan))

    def _draw_mixed(self, rng: ViewRNG, field: str, partners: int, probability: float) -> Bools:
        """(N, partners) which are mixed in."""
        drawn = rng.per_canvas(field, len(rng.images), partners if self.each_partner else 1) < probability
        return np.broadcast_to(drawn, (len(drawn), partners))

    def _draw_weights(self, rng: ViewRNG) -> Floats:
        """(N, n) parts of the partners in the blend, and of the own image last, whichever its place in Eq. 3."""
        steps = self.global_images - 1
        alpha = betaincinv(self.global_alpha, self.global_alpha, rng.per_canvas("alpha", len(rng.images), steps))
        mixed = self._draw_mixed(rng, "global", steps, self.global_probability)
        place = 0 if self.own_first else steps
        present = np.insert(mixed, place, True, axis=1)  # (N, n)
        begun = np.logical_or.accumulate(present, axis=1)[:, :-1]  # there is something for a step to mix an image with
        weights = _iterate(np.where(present[:, 1:], np.where(begun, alpha, 1.0), 0.0))
        return np.column_stack([np.delete(weights, place, axis=1), weights[:, place]])


@dataclass(frozen=True, kw_only=True)
class UnMix(AlteredCrop):
    """A view's own crops, each mixed with one other: two regions, both the whole canvas, weighted by their parts.

    The weights are lambda and 1 - lambda, so the loss is lambda * L(mixed) + (1 - lambda) * L(mixed, reversed order).
    The loss of the unmixed crops is that of the view which they are taken from.

    Partners are the block reversed: the released code reverses the batch. There a batch has one lambda and one box
    (`per_batch`); by default every canvas draws its own.

    Attributes:
        of: position of the view whose very crops are mixed, of the same size, scale, ratio and augmentation.
        global_probability: of blending the two; otherwise a box of the partner is pasted.
        beta: of Beta(beta, beta), from which lambda is drawn.
        per_batch: lambda, the box, and which of the two mixes are drawn once for all canvases of a batch.

    Example:
        >>> from smalti.views import Collate, Crop, UnMix
        >>> images = [torch.rand(3, 40, 60) for _ in range(4)]
        >>> *_, mixed = Collate([Crop(size=32), Crop(size=32), UnMix(size=32)])(images)
        >>> mixed.regions.source.tolist()
        [[0, 3], [1, 2], [2, 1], [3, 0]]
    """

    of: int = 0
    global_probability: float = 0.5
    beta: float = 1.0
    per_batch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "of")
        require_fraction(self, "global_probability")
        require_positive(self, "beta")

    @property
    def standard(self) -> bool:
        return False

    def check_block(self, block: int) -> None:
        _check_block(block, 2)

    def plan(self, sizes: Ints, rng: ViewRNG) -> MixturePlan:
        """One canvas an image, N = B, with K = 2 regions: the image and its partner."""
        self.check_block(rng.block)
        crops = self.plan_crops(sizes, replace(rng, view=self.of))
        count = len(sizes)
        own = np.arange(count)
        partner = own // rng.block * rng.block + rng.block - 1 - own % rng.block
        draw = partial(self._draw, rng)
        globally = draw("global")[:, 0] < self.global_probability
        drawn = betaincinv(self.beta, self.beta, draw("alpha")[:, 0])
        boxes = np.where(globally[:, None, None], 0, _draw_boxes(draw, self.beta, self.size))
        kept = np.where(globally, drawn, 1.0)
        part = np.where(globally, drawn, 1 - _areas(boxes)[:, 0] / self.size**2)  # lambda, what is seen of the own
        regions = replace(
            crops.regions,
            source=torch.from_numpy(np.column_stack([own, partner])),
            boxes=crops.regions.boxes.expand(-1, 2, -1),
            weight=torch.from_numpy(np.column_stack([part, 1 - part])).float(),
        )
        return MixturePlan(
            **vars(crops) | {"regions": regions},
            layers=np.column_stack([partner, own]),
            weights=_iterate(kept[:, None]),
            context=np.ones(count),
            pasted=partner[:, None],
            boxes=boxes,
        )

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        """lambda * I_i + (1 - lambda) * I_partner, or a box of the partner's crop on I_i."""
        assert isinstance(plan, MixturePlan)
        return replace(canvas, pixels=paste(blend(canvas.pixels, plan), canvas.pixels, plan))

    def _draw(self, rng: ViewRNG, field: str) -> Floats:
        """(N, 1) uniform numbers."""
        count = len(rng.images)
        return np.broadcast_to(rng.per_batch(field), (count, 1)) if self.per_batch else rng.per_canvas(field, count)


def blend(pixels: Tensor, plan: MixturePlan) -> Tensor:
    """(N, C, L, L) -> the same, each the sum of its layers by their weights."""
    layers = torch.from_numpy(plan.layers).to(pixels.device)
    weights = torch.from_numpy(plan.weights).to(pixels)[..., None, None, None]
    blended = pixels * weights[:, -1]
    for number in range(layers.shape[1] - 1):
        blended = blended + pixels[layers[:, number]] * weights[:, number]
    return blended


def paste(onto: Tensor, out_of: Tensor, plan: MixturePlan) -> Tensor:
    """Canvases (N, C, L, L), decayed, with the plan's boxes out of others (N, C, L, L)."""
    mixed = onto * torch.from_numpy(plan.context).to(onto)[:, None, None, None]
    for canvas, boxes in zip(plan.pasted.T, plan.boxes.swapaxes(0, 1), strict=True):
        pieces = out_of[torch.from_numpy(canvas).to(onto.device)]
        mixed = torch.where(inside(boxes, onto), pieces, mixed)
    return mixed


def _check_block(block: int, images: int) -> None:
    if block < images:
        raise UserError(
            f"{block} images to mix {images} different ones from",
            f"at least {images}",
            "give a larger --batch-size or --block",
        )


def draw_partners(rng: ViewRNG, field: str, count: int) -> Ints:
    """(N, count) canvases of the same block, none twice nor the canvas itself."""
    canvas = np.arange(len(rng.images))
    order = rng.per_canvas(field, len(canvas), rng.block)
    order[canvas, canvas % rng.block] = 2.0  # after all others
    return (canvas // rng.block * rng.block)[:, None] + order.argsort(axis=1)[:, :count]


def _iterate(alpha: Floats) -> Floats:
    """Coefficients alpha_1 ... alpha_{n-1} (N, n - 1) of Eq. 3 -> (N, n) the parts of the n images in its order."""
    one = np.ones((len(alpha), 1))
    later = np.cumprod(1 - alpha[:, ::-1], axis=1)[:, ::-1]  # beta_k * ... * beta_{n-1}
    return np.hstack([one, alpha]) * np.hstack([later, one])


def _draw_boxes(draw: Callable[[str], Floats], beta: float, size: int) -> Ints:
    """(N, m, 4) CutMix boxes (arXiv:1905.04899, appendix A): a random center, sides of L * sqrt(1 - lambda).

    Args:
        draw: (N, m) uniform numbers for a field.
        beta: of Beta(beta, beta), from which lambda is drawn.
        size: L, pixels.
    """
    free = betaincinv(beta, beta, draw("free"))  # lambda
    half = np.floor(size * np.sqrt(1 - free)).astype(np.int64) // 2
    center = np.floor(size * np.stack([draw(f"box {axis}") for axis in "xy"], axis=-1))
    center = center.astype(np.int64)
    return np.concatenate([center - half[..., None], center + half[..., None]], axis=-1).clip(0, size)


def _areas(boxes: Ints) -> Ints:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
