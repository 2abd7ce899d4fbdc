"""From a source of images to batches of views: the step number alone decides what a batch holds.

The data set is indexed by the step of the run, so an epoch's order, the share of a rank, the views and what replaces a
bad image are functions of (seed, step): resuming at step n is asking for items n, n + 1, ...

Legend: B images of one rank's share of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smalti.errors import BadImageError, UserError
from smalti.images.source import ImageSource
from smalti.images.statistics import PixelStatistics
from smalti.views.blocks import choose_block
from smalti.views.canvas import Canvas
from smalti.views.finish import Normalize, finish
from smalti.views.plan import Composition, Plan
from smalti.views.render_device import render
from smalti.views.render_host import HostRenderer
from smalti.views.rng import ViewRNG, field_key, mix, permutation

_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """Which images stand in the batch of a step, the same for every number of workers and ranks.

    Attributes:
        num_images: in the data set.
        batch_size: images of a step over all ranks; the last, incomplete batch of an epoch is left out.
        seed: of the run.
        block: images within which canvases are dealt; 0 for what `choose_block` says of the batch. Views are the
            same for every number of ranks because no block is ever split between two.

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
                f"{self.batch_size} images on {world_size} processes, dealt in blocks of {self.block_size}",
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


@dataclass
class Batch:
    """One step's views of one rank's share, rendered or about to be.

    Attributes:
        step: counted over the run.
        plans: one for each composition.
        pixels: host executor: for each composition (N, C, L, L) canvases, uint8 or float32 in [0, 1]; else empty.
        images: device executor: (B, C, H, W) images, padded to the largest, uint8 or float32 in [0, 1]; else None.
        labels: (B,) int64, classes of the images; None where they have none.
        bad: (name, reason) of the images that could not be used, others standing in for them.
    """

    step: int
    plans: list[Plan]
    pixels: list[Tensor] = field(default_factory=list)
    images: Tensor | None = None
    labels: Tensor | None = None
    bad: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its pixels on another device; plans stay on the host."""
        return replace(
            self,
            pixels=[pixels.to(device, non_blocking=True) for pixels in self.pixels],
            images=None if self.images is None else self.images.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "Batch":
        return replace(
            self,
            pixels=[pixels.pin_memory() for pixels in self.pixels],
            images=None if self.images is None else self.images.pin_memory(),
        )


def canvases(batch: Batch, views: Sequence[Composition], normalize: Normalize) -> list[Canvas]:
    """What the network sees of a batch, one `Canvas` for each composition, on the device that the batch is on."""
    pixels = batch.pixels if batch.images is None else [render(plan, batch.images) for plan in batch.plans]
    rendered = zip(views, batch.plans, pixels, strict=True)
    finished = [finish(view, plan, canvas, normalize) for view, plan, canvas in rendered]
    if batch.labels is None:
        return finished
    return [replace(canvas, regions=canvas.regions.labeled(batch.labels)) for canvas in finished]


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
        sizes = np.array([(image.shape[1], image.shape[0]) for image in images])
        plans = [view.plan(sizes, self._rng(step, number, indices)) for number, view in enumerate(self._views)]
        labels = None if self._source.labels is None else torch.from_numpy(self._source.labels[indices])
        if self._executor == "device":
            return Batch(step=step, plans=plans, images=_stack(images), labels=labels, bad=bad)
        return Batch(step=step, plans=plans, pixels=_render(plans, images), labels=labels, bad=bad)

    def _rng(self, step: int, view: int, indices: NDArray[np.int64]) -> ViewRNG:
        return ViewRNG(
            seed=self._order.seed,
            epoch=step // self._order.steps_per_epoch,
            step=step,
            view=view,
            images=indices,
            first=self._first,
            block=self._order.block_size,
        )

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


def make_loader(dataset: ViewDataset, steps: range, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """Batches for the given steps of a run, in order, made by `workers` processes (0: by this one)."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread if workers else None,
        persistent_workers=False,
        prefetch_factor=2 if workers else None,
    )


def _one_thread(_worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _stack(images: list[NDArray[Any]]) -> Tensor:
    """(B, C, H, W) with every image at the top left."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    if all(image.shape[:2] == (height, width) for image in images):
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    stacked = np.zeros((len(images), height, width, images[0].shape[2]), dtype=images[0].dtype)
    for slot, image in zip(stacked, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _render(plans: list[Plan], images: list[NDArray[Any]]) -> list[Tensor]:
    renderers = [HostRenderer(plan, images[0].shape[2], images[0].dtype) for plan in plans]
    for position, image in enumerate(images):
        for renderer in renderers:
            renderer.add(position, image)
    return [renderer.pixels() for renderer in renderers]
