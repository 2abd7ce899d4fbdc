"""The kNN probe against nothing but the matrix products that it cannot do without, and its memory against its word."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from benchmarks.figures import Figure, show
from benchmarks.measure import figure, interleave, use_one_core
from smalti.evaluation.knn import KnnProbe

_CLASSES = 100


def measure(quick: bool = False) -> list[Figure]:
    """Time the probe.

    Args:
        quick: the smaller bank only, three times.
    """
    use_one_core()
    figures = _compare(bank=20_000, queries=2_000, dim=512, rounds=3 if quick else 9)
    return figures if quick else [*figures, *_compare(bank=40_000, queries=1_000, dim=2048, rounds=5)]


def _compare(bank: int, queries: int, dim: int, rounds: int) -> list[Figure]:
    torch.manual_seed(0)
    features, labels, asked = torch.randn(bank, dim), torch.randint(_CLASSES, (bank,)), torch.randn(queries, dim)
    probe = KnnProbe(k=20).fit(features, labels)
    seconds = interleave(
        {"probe": lambda _: probe.predict(asked), "products": products(probe, features, asked)},
        rounds,
        clock=time.process_time,
    )
    name = f"{bank} x {dim}, {queries} queries"
    peak = _peak_megabytes(lambda: probe.predict(asked))
    return [
        figure(f"kNN {name}", seconds["probe"], "s"),
        figure(f"kNN / matrix products, {name}", seconds["probe"] / seconds["products"], at_most=1.3),
        Figure(
            name=f"kNN memory, {name}", value=peak, unit="MB", at_most=1.1 * stated_megabytes(probe, features, asked)
        ),
    ]


def products(probe: KnnProbe, bank: Tensor, queries: Tensor) -> Callable[[int], object]:
    """The products of normalized features in the probe's chunks, into memory that is there already."""
    bank, queries = (F.normalize(x.float(), dim=1) for x in (bank, queries))
    similar = torch.empty(min(probe.query_chunk, len(queries)), min(probe.bank_chunk, len(bank)), device=bank.device)

    def work(_round: int) -> object:
        for block in bank.split(probe.bank_chunk):
            for rows in queries.split(probe.query_chunk):
                torch.mm(rows, block.T, out=similar[: len(rows), : len(block)])
        return similar

    return work


def stated_megabytes(probe: KnnProbe, bank: Tensor, queries: Tensor) -> float:
    """What the probe's documentation says that it takes beyond the bank."""
    count, dim = queries.shape
    chunk = min(probe.bank_chunk, len(bank))
    similarities = 4 * min(probe.query_chunk, count) * (chunk + len(probe.classes_))
    return (similarities + 4 * dim * (count + chunk) + 12 * probe.k * count) / 1e6


def _peak_megabytes(work: Callable[[], object]) -> float:
    """The most resident memory during the work, less what was there before; 0 where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0.0
    reset.write_text("5")  # the peak starts again from here
    before = _kilobytes(status, "VmRSS")
    work()
    return (_kilobytes(status, "VmHWM") - before) / 1e3 * 1.024


def _kilobytes(status: Path, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
    return int(found[1]) if found else 0


if __name__ == "__main__":
    show(tyro.cli(measure))
