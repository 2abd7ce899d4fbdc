"""A batch of views on its way: images with a plan for every composition, then pixels, then canvases.

Legend: B images of one rank's share of a batch, N canvases, C channels, L side of a canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.finish import finish
from smalti.views.plan import Composition, Plan
from smalti.views.render_device import render
from smalti.views.render_host import HostRenderer
from smalti.views.rng import ViewRNG


@dataclass
class Batch:
    """One step's views of one rank's share, rendered or about to be.

    Attributes:
        step: counted over the run; in a batch of `Collate` a hash of its images.
        plans: one for each composition.
        pixels: host executor: for each composition (N, C, L, L) canvases, uint8 or float32 in [0, 1]; else empty.
        images: device executor: (B, C, H, W) images, padded to the largest, uint8 or float32 in [0, 1]; else None.
        labels: (B,) int64, classes of the images; None where they have none.
        indices: (B,) int64, numbers of the images in the data set; None where they are not known.
        bad: (name, reason) of the images that could not be used, others standing in for them.

    Example:
        >>> from smalti.views import Collate, Crop
        >>> collate = Collate([Crop(size=32)])
        >>> batch = collate.render([torch.zeros(3, 40, 60, dtype=torch.uint8)])
        >>> batch.pixels[0].dtype, collate.finish(batch)[0].pixels.dtype
        (torch.uint8, torch.float32)
    """

    step: int
    plans: list[Plan]
    pixels: list[Tensor] = field(default_factory=list)
    images: Tensor | None = None
    labels: Tensor | None = None
    indices: Tensor | None = None
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


def make_batch(
    images: Sequence[NDArray[Any]],
    views: Sequence[Composition],
    rng: ViewRNG,
    labels: Tensor | None = None,
    indices: Tensor | None = None,
    bad: Sequence[tuple[str, str]] = (),
    executor: Literal["host", "device"] = "host",
) -> Batch:
    """Plan the views of B decoded images, and render them if the host is to.

    Args:
        images: B of them, (H, W, C) uint8 or float32 in [0, 1], all of one type.
        views: the compositions.
        rng: of the first view; the others draw alike under their own numbers.
        labels: (B,) int64.
        indices: (B,) int64, of the images in the data set.
        bad: (name, reason) of images that others stand in for.
        executor: "host" renders here, "device" hands on the images.
    """
    sizes = np.array([(image.shape[1], image.shape[0]) for image in images])
    plans = [view.plan(sizes, replace(rng, view=number)) for number, view in enumerate(views)]
    batch = Batch(step=rng.step, plans=plans, labels=labels, indices=indices, bad=list(bad))
    if executor == "device":
        return replace(batch, images=_stack(images))
    return replace(batch, pixels=_render(plans, images))


def canvases(batch: Batch, views: Sequence[Composition], normalize: Normalize) -> list[Canvas]:
    """What the network sees of a batch, one `Canvas` for each composition, on the device that the batch is on."""
    pixels = batch.pixels if batch.images is None else [render(plan, batch.images) for plan in batch.plans]
    rendered = zip(views, batch.plans, pixels, strict=True)
    finished = [finish(view, plan, canvas, normalize) for view, plan, canvas in rendered]
    if batch.labels is not None:
        finished = [replace(canvas, regions=canvas.regions.labeled(batch.labels)) for canvas in finished]
    if batch.indices is not None:
        finished = [replace(canvas, regions=canvas.regions.numbered(batch.indices)) for canvas in finished]
    return finished


def _stack(images: Sequence[NDArray[Any]]) -> Tensor:
    """(B, C, H, W) with every image at the top left."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    if all(image.shape[:2] == (height, width) for image in images):
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    stacked = np.zeros((len(images), height, width, images[0].shape[2]), dtype=images[0].dtype)
    for slot, image in zip(stacked, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _render(plans: Sequence[Plan], images: Sequence[NDArray[Any]]) -> list[Tensor]:
    renderers = [HostRenderer(plan, images[0].shape[2], images[0].dtype) for plan in plans]
    for position, image in enumerate(images):
        for renderer in renderers:
            renderer.add(position, image)
    return [renderer.pixels() for renderer in renderers]
