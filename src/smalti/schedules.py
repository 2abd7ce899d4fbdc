"""Schedules: pure functions of where the run stands."""

import math


def cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` at fraction 0 to `end` at fraction 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def warmup_cosine(step: int, total_steps: int, warmup_steps: int, peak: float = 1.0, end: float = 0.0) -> float:
    """A linear rise to `peak` over the warm-up, then half a cosine that reaches `end` just after the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine(peak, end, (step - warmup_steps) / max(1, total_steps - warmup_steps))
