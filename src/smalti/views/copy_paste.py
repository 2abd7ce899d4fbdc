"""Copy-paste: a piece of one image's crop on another's, a control of MCL (its Table 8; arXiv:2012.07177 without masks).

Legend: N canvases, one an image, L side of a canvas, C channels.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from smalti.checks import require_fraction
from smalti.errors import UserError
from smalti.views.altered import AlteredCrop, inside
from smalti.views.canvas import Canvas
from smalti.views.mixture import draw_partners
from smalti.views.plan import Ints, Plan
from smalti.views.rng import ViewRNG


@dataclass(frozen=True, kw_only=True)
class CopyPastePlan(Plan):
    """Crops, and what is pasted onto them.

    Attributes:
        partner: (N,) canvas out of which the piece is cut.
        pasted: (N, 4) xyxy where it comes to lie, whole pixels, right and bottom exclusive; empty for nothing pasted.
        cut: (N, 2) x and y of its top left corner in the partner's crop, pixels.
    """

    partner: Ints
    pasted: Ints
    cut: Ints


@dataclass(frozen=True, kw_only=True)
class CopyPaste(AlteredCrop):
    """One crop of every image, with a square of another image's crop pasted onto it somewhere else.

    Objects cannot be cut out where there are no masks, so a piece is a square. It is cut out of the finished crop of
    another image of the block. The regions are the whole canvas, for the own image, and the pasted square; each is
    weighed by the square root of what is seen of it.

    Attributes:
        probability: of pasting.
        side: range of the square's side, as a part of the canvas's; in (0, 1].

    Example:
        >>> from smalti.views import Collate, CopyPaste
        >>> images = [torch.rand(3, 40, 60) for _ in range(4)]
        >>> (canvas,) = Collate([CopyPaste(size=32, side=(0.5, 0.5), probability=1.0)])(images)
        >>> tuple(canvas.regions.boxes.shape), canvas.regions.weight[0]
        ((4, 2, 4), tensor([0.4330, 0.5000]))
    """

    probability: float = 0.5
    side: tuple[float, float] = (0.25, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self, "probability")
        if not 0 < self.side[0] <= self.side[1] <= 1:
            raise UserError(f"side {self.side}", "a range within (0, 1]", "use e.g. 0.25 0.5")

    @property
    def standard(self) -> bool:
        return False

    def check_block(self, block: int) -> None:
        if block < 2:
            raise UserError(
                "a block of one image", "another one to paste from", "give a larger --batch-size or --block"
            )

    def plan(self, sizes: Ints, rng: ViewRNG) -> CopyPastePlan:
        """One canvas an image, N = B, with K = 2 regions: the image and what is pasted."""
        self.check_block(rng.block)
        crops, count = self.plan_crops(sizes, rng), len(sizes)
        partner = draw_partners(rng, "paste partner", 1)[:, 0]
        low, high = self.side
        drawn = low + (high - low) * rng.per_canvas("paste side", count)
        happens = rng.per_canvas("paste", count) < self.probability
        side = np.where(happens, np.rint(self.size * drawn).clip(1, self.size), 0).astype(np.int64)  # (N, 1)
        corner, cut = (
            np.floor((self.size - side + 1) * rng.per_canvas(field, count, 2)).astype(np.int64)
            for field in ("paste corner", "paste cut")
        )
        pasted = np.hstack([corner, corner + side])
        hidden = side[:, 0] ** 2 / self.size**2
        return CopyPastePlan(
            **vars(crops)
            | {
                "regions": replace(
                    crops.regions,
                    source=torch.from_numpy(np.column_stack([np.arange(count), partner])),
                    boxes=torch.cat([crops.regions.boxes, torch.from_numpy(pasted[:, None]).float()], dim=1),
                    weight=torch.from_numpy(np.column_stack([np.sqrt(1 - hidden), hidden > 0]) / 2).float(),
                    whole=False,
                )
            },
            partner=partner,
            pasted=pasted,
            cut=cut,
        )

    def apply(self, canvas: Canvas, plan: Plan) -> Canvas:
        """The canvases, each with its square out of another."""
        assert isinstance(plan, CopyPastePlan)
        pieces = _moved(canvas.pixels, plan.partner, plan.cut - plan.pasted[:, :2])
        return replace(canvas, pixels=torch.where(inside(plan.pasted, canvas.pixels), pieces, canvas.pixels))


def _moved(pixels: Tensor, canvas: Ints, shift: Ints) -> Tensor:
    """(N, C, L, L) canvases (N,), pixel (x, y) of each being what stood at (x, y) + shift (N, 2) before, wrapped."""
    side = pixels.shape[-1]
    place = (np.arange(side) + shift[..., None]) % side  # (N, 2, L)
    index = (canvas[:, None, None], place[:, 1, :, None], place[:, 0, None, :])
    canvases, rows, columns = (torch.from_numpy(part).to(pixels.device) for part in index)
    return pixels.permute(0, 2, 3, 1)[canvases, rows, columns].permute(0, 3, 1, 2)
