"""Schedules: pure functions of where the run stands."""

import math


def cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` at fraction 0 to `end` at fraction 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def warmup_cosine(step: int, total_steps: int, warmup_steps: int) -> float:
    """Factor of the learning rate: a linear rise over the warm-up, then half a cosine, 0 just after the last step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return cosine(1.0, 0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
