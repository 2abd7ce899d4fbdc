"""Schedules: pure functions of where the run stands."""

import math
from collections.abc import Sequence


def cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` at fraction 0 to `end` at fraction 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def warmup_cosine(step: int, total_steps: int, warmup_steps: int, peak: float = 1.0, end: float = 0.0) -> float:
    """A linear rise to `peak` over the warm-up, then half a cosine that reaches `end` just after the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine(peak, end, (step - warmup_steps) / max(1, total_steps - warmup_steps))


def warmup_drops(step: int, warmup_steps: int, drops: Sequence[int], peak: float = 1.0) -> float:
    """A linear rise to `peak` over the warm-up, and a tenth of what it was from each of the steps `drops` on."""
    rise = min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
    return peak * rise * 0.1 ** sum(step >= drop for drop in drops)
