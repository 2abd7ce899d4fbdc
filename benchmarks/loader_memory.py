"""Memory of a loader over a million paths: what this process and two workers hold must not grow with the epochs."""

import os
import re
from multiprocessing import active_children
from pathlib import Path
from typing import cast

import numpy as np
import tyro
from torch.utils.data import Dataset

from benchmarks.figures import Figure, show
from smalti.images.folder import FileSource
from smalti.views.loader import BatchOrder, ViewDataset, load_batches

_WORKERS = 2


class _Names(Dataset[int]):
    """Item n is the number of characters in the names of step n's images: every path is read, no file is."""

    def __init__(self, source: FileSource, order: BatchOrder) -> None:
        self._source, self._order = source, order

    def __getitem__(self, step: int) -> int:
        return sum(len(self._source.image_name(int(index))) for index in self._order.indices(step))


def measure(quick: bool = False) -> list[Figure]:
    """Walk through the paths.

    Args:
        quick: a tenth of them.
    """
    images, epochs = (100_000, 4) if quick else (1_000_000, 6)
    paths = (f"n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG" for number in range(images))
    source = FileSource("fake", "/nowhere", paths, labels=np.zeros(images, dtype=np.int64))
    order = BatchOrder(num_images=images, batch_size=1000, seed=0)
    names = cast(ViewDataset, _Names(source, order))  # nothing of it but its items is asked for
    loader = load_batches(names, range(epochs * order.steps_per_epoch), workers=_WORKERS, pin_memory=False)
    held = []
    for step, _ in enumerate(loader, start=1):
        # In the middle of an epoch, when no worker has just drawn, or is about to draw, the order of another.
        if step % order.steps_per_epoch == order.steps_per_epoch // 2:
            held.append(_megabytes())
    name = f"{images} paths, {_WORKERS} workers"
    return [
        Figure(name=f"buffer of paths, {name}", value=source.paths.nbytes / 1e6, unit="MB"),
        Figure(name=f"loader's memory in epoch 2, {name}", value=held[1], unit="MB"),
        Figure(name=f"loader's memory in epoch {epochs} / epoch 2, {name}", value=held[-1] / held[1], at_most=1.01),
    ]


def _megabytes() -> float:
    """Of this process and its workers, pages that several share counted once, files' not at all (Linux only)."""
    processes = [os.getpid(), *(child.pid for child in active_children())]
    return sum(_proportional_kilobytes(Path(f"/proc/{process}/smaps_rollup")) for process in processes) / 1e3 * 1.024


def _proportional_kilobytes(rollup: Path) -> int:
    found = re.search(r"^Pss_Anon:\s+(\d+) kB", rollup.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    show(tyro.cli(measure))
