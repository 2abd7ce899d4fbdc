"""From rendered pixels to what the network sees: normalized, and the uncovered ground filled.

Legend: N canvases, C channels, L side of a canvas.
"""

import torch
from torch import Tensor

from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.plan import Composition, Plan


def finish(composition: Composition, plan: Plan, pixels: Tensor, normalize: Normalize) -> Canvas:
    """Rendered canvases (N, C, L, L) -> Canvas."""
    normalized = normalize(pixels)
    if not plan.covered:
        normalized = _fill(plan, normalized)
    return composition.apply(Canvas(pixels=normalized, regions=plan.regions.to(pixels.device)), plan)


def _fill(plan: Plan, pixels: Tensor) -> Tensor:
    """The tiles of a canvas lie side by side, so what they cover is one rectangle around its regions."""
    boxes = plan.regions.boxes.to(pixels.device)  # (N, K, 4)
    place = torch.arange(plan.canvas_size, device=pixels.device)
    low, high = boxes[..., :2].amin(dim=1), boxes[..., 2:].amax(dim=1)  # (N, 2) x, y
    inside = (place >= low[..., None]) & (place < high[..., None])  # (N, 2, L)
    covered = inside[:, 1, None, :, None] & inside[:, 0, None, None, :]  # (N, 1, L, L)
    if plan.background == "noise":
        return torch.where(covered, pixels, _noise(plan, pixels))
    return pixels * covered


def _noise(plan: Plan, pixels: Tensor) -> Tensor:
    """Standard normal noise that depends on the plan alone: drawn on the CPU, the same for every device."""
    if plan.noise_key is None:
        raise ValueError("a plan with a background of noise needs a noise_key for every canvas")
    noise = torch.empty(pixels.shape, dtype=torch.float32)
    for canvas, key in zip(noise, plan.noise_key.tolist(), strict=True):
        canvas.normal_(generator=torch.Generator().manual_seed(key))
    return noise.to(pixels)
