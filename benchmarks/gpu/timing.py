"""Time on a device: contestants take turns, each in a group of steps between two points where the device is idle."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.gpu.scale import Scale
from benchmarks.measure import Times, interleave


def device_times(contestants: Mapping[str, Callable[[int], object]], scale: Scale) -> dict[str, Times]:
    """Seconds of one step of each contestant, `scale.rounds` of them."""

    def group(work: Callable[[int], object]) -> Callable[[int], object]:
        def several(number: int) -> None:
            for step in range(scale.steps):
                work(number * scale.steps + step)
            if scale.device == "cuda":
                torch.cuda.synchronize()

        return several

    seconds = interleave({name: group(work) for name, work in contestants.items()}, scale.rounds, warm_up=2)
    return {name: values / scale.steps for name, values in seconds.items()}


def described(values: Times) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = (
        float(f"{x:.4g}") for x in torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    )
    return {"median": middle, "quartiles": [low, high]}
