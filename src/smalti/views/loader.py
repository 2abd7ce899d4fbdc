"""From a source of images to batches of views: the step number alone decides what a batch holds.

The data set is indexed by the step of the run, so an epoch's order, the share of a rank, the views and what replaces a
bad image are functions of (seed, step): resuming at step n is asking for items n, n + 1, ...

Legend: B images of one rank's share of a batch.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing import get_start_method
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from smalti.errors import BadImageError, UserError
from smalti.images.source import ImageSource
from smalti.images.statistics import PixelStatistics
from smalti.signals import left_to_the_main_process
from smalti.views.batch import Batch, make_batch
from smalti.views.blocks import choose_block
from smalti.views.plan import Composition
from smalti.views.rng import ViewRNG, field_key, mix, permutation

_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """Which images stand in the batch of a step, the same for every number of workers and ranks.

    Attributes:
        num_images: in the data set.
        batch_size: images of a step over all ranks; the last, incomplete batch of an epoch is left out.
        seed: of the run.
        block: images among which tiles are assigned to canvases; 0 to let `choose_block` choose. Views are the same
            for every number of ranks because no block is ever split between two.

    Raises:
        UserError: the batch is larger than the data set, or the block does not divide it.
    """

    num_images: int
    batch_size: int
    seed: int
    block: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_images:
            raise UserError(
                f"a batch of {self.batch_size} images from {self.num_images}",
                "1 to as many as there are",
                f"use --batch-size {max(self.num_images, 1)} or less",
            )
        if self.block and self.batch_size % self.block:
            raise UserError(
                f"--block {self.block} for a batch of {self.batch_size}", "a divisor of the batch", "change one of them"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.batch_size

    @property
    def block_size(self) -> int:
        """Images in a block."""
        return self.block or choose_block(self.batch_size)

    def check_parts(self, parts: int) -> None:
        """Raise UserError where gradients accumulate over more parts than an epoch has batches."""
        if self.steps_per_epoch < parts:
            raise UserError(
                f"{self.num_images} images for a batch in {parts} parts of {self.batch_size}",
                "at least one whole batch an epoch",
                f"use --batch-size {self.num_images} or less",
            )

    def share(self, world_size: int) -> int:
        """Images of a step on each of several processes; UserError where a block would be split between two."""
        share, rest = divmod(self.batch_size, world_size)
        if rest or share % self.block_size:
            raise UserError(
                f"{self.batch_size} images on {world_size} processes, assigned in blocks of {self.block_size}",
                "for each process a whole number of blocks",
                "change --batch-size, or give a --block that divides the share of a process",
            )
        return share

    def indices(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) indices in the data set for a step counted over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self._epoch(epoch)[start : start + self.batch_size]

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        cached: dict[int, NDArray[np.int64]] = self.__dict__.setdefault("_cache", {})
        if epoch not in cached:
            cached.clear()
            cached[epoch] = permutation(self.num_images, self.seed, field_key("order"), epoch)
        return cached[epoch]


class ViewDataset(Dataset[Batch]):
    """Item n is the batch of views of step n.

    Args:
        source: where the images come from.
        views: the compositions.
        order: which images stand in which step.
        statistics: range of the pixels, for images that are not 8-bit.
        executor: "host" renders here, "device" hands on the decoded images.
        rank: which share of every batch to make.
        world_size: shares of a batch; each must be a multiple of the block.
    """

    def __init__(
        self,
        source: ImageSource,
        views: Sequence[Composition],
        order: BatchOrder,
        statistics: PixelStatistics,
        executor: Literal["host", "device"] = "host",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        share = order.share(world_size)
        self._source, self._views, self._order, self._statistics = source, tuple(views), order, statistics
        self._executor, self._first = executor, rank * share
        self.share = share

    def image(self, step: int, position: int) -> NDArray[Any]:
        """The image (H, W, C) that stands at a position of this share of a step's batch."""
        indices = self._order.indices(step)
        return self._read(int(indices[self._first + position]), set(indices.tolist()), [])[0]

    def __getitem__(self, step: int) -> Batch:
        batch_indices = self._order.indices(step)
        wanted = batch_indices[self._first : self._first + self.share]
        taken = set(batch_indices.tolist())
        bad: list[tuple[str, str]] = []
        images, indices = [], np.empty_like(wanted)
        for position, index in enumerate(wanted):
            image, indices[position] = self._read(int(index), taken, bad)
            images.append(image)
        rng = ViewRNG(
            seed=self._order.seed,
            epoch=step // self._order.steps_per_epoch,
            step=step,
            view=0,
            images=indices,
            first=self._first,
            block=self._order.block_size,
        )
        labels = None if self._source.labels is None else torch.from_numpy(self._source.labels[indices])
        return make_batch(images, self._views, rng, labels, torch.from_numpy(indices), bad, self._executor)

    def _read(self, wanted: int, taken: set[int], bad: list[tuple[str, str]]) -> tuple[NDArray[Any], int]:
        """The image, or in place of a bad one another that no one has taken: always the same for the same batch."""
        index = wanted
        for attempt in range(1, _ATTEMPTS):
            try:
                image = self._statistics.to_unit(self._source.read(index))
                taken.add(index)
                return image, index
            except BadImageError as error:
                bad.append((self._source.image_name(index), str(error)))
            index = self._stand_in(wanted, attempt, taken)
        raise UserError(f"{_ATTEMPTS} unusable images in a row", "mostly usable ones", "look at skipped.txt")

    def _stand_in(self, wanted: int, attempt: int, taken: set[int]) -> int:
        order = mix(self._order.seed, field_key("stand in"), wanted, attempt, np.arange(100, dtype=np.uint64))
        candidates = (order % np.uint64(len(self._source))).tolist()
        # Where hardly any image is good, one may be there twice: the account of bad files is what ends such a run.
        avoided = taken if attempt < 100 else set()
        return next((index for index in candidates if index not in avoided), candidates[0])


def load_batches(dataset: ViewDataset, steps: range, workers: int, pin_memory: bool) -> Generator[Batch]:
    """Batches for the given steps of a run, in order, made by `workers` processes (0: by this one).

    Raises:
        UserError: what a worker raised, as if it had been raised here; or a worker died.
    """
    loader = DataLoader(
        _Messenger(dataset),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker if workers else None,
        persistent_workers=False,
        prefetch_factor=2 if workers else None,
    )
    batches = iter(loader)
    first = True
    try:
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError as error:
                raise _worker_died(error, first) from error
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch
            first = False
            yield batch
    finally:
        del batches  # its workers end now, not when nobody remembers an error any more


class _Messenger(Dataset[Batch | UserError]):
    """Hands over what the user can put right as a value: torch would make a traceback of it."""

    def __init__(self, dataset: ViewDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, step: int) -> Batch | UserError:
        try:
            return self._dataset[step]
        except UserError as error:
            return error


def _worker_died(error: RuntimeError, at_once: bool) -> Exception:
    text = str(error).partition("\n")[0]
    if "worker" not in text or ("killed by signal" not in text and "exited unexpectedly" not in text):
        return error
    if at_once and get_start_method() != "fork":
        return UserError(
            f"a loader's worker that did not start ({text})",
            'in a script, its work under `if __name__ == "__main__":`',
            "put it there, or use --workers 0",
        )
    return UserError(
        f"a loader's worker that died ({text})",
        "memory for all workers",
        "use fewer --workers, or smaller images; --resume continues",
    )


def _begin_worker(_worker: int) -> None:
    import cv2

    left_to_the_main_process()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
