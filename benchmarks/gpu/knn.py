"""The kNN probe on a bank of ImageNet's size against the matrix products alone."""

from typing import Any

import torch

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import described, device_times
from benchmarks.knn_cpu import products, stated_megabytes
from smalti.evaluation.knn import KnnProbe


def knn(scale: Scale) -> dict[str, Any]:
    """Times and the most memory; bank and queries are on the device already."""
    generator = torch.Generator(scale.device).manual_seed(0)
    bank, queries = (
        torch.randn(count, scale.dim, device=scale.device, generator=generator) for count in (scale.bank, scale.queries)
    )
    labels = torch.arange(scale.bank) % 1000
    probe = KnnProbe(k=20, device=scale.device).fit(bank, labels)
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        probe.predict(queries)
        peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    else:
        peak = None
    once = Scale(device=scale.device, rounds=scale.rounds, steps=1)
    seconds = device_times(
        {"probe": lambda _: probe.predict(queries), "products": products(probe, bank, queries)}, once
    )
    return {
        "seconds": {name: described(values) for name, values in seconds.items()},
        "probe / products": described(seconds["probe"] / seconds["products"]),
        "peak megabytes beside the bank": peak,
        "stated megabytes": stated_megabytes(probe, bank, queries),
        "targets": {"probe / products": 1.3},
    }
