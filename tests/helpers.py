"""What several tests share: images with traceable content, and plans for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import BadImageError
from smalti.methods.method import DataInfo
from smalti.normalize import Normalize
from smalti.testing.images import STATISTICS
from smalti.testing.images import textured as textured
from smalti.views.canvas import Canvas
from smalti.views.crops import Augmentation
from smalti.views.finish import finish
from smalti.views.plan import Composition, Plan
from smalti.views.render_device import render
from smalti.views.render_host import HostRenderer
from smalti.views.rng import ViewRNG

PLAIN = Augmentation(flip=0, jitter=0, gray=0, blur=0)  # nothing but the crop
EIGHT_BIT = STATISTICS
UNCHANGED = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NO_DATA = DataInfo(UNCHANGED)


def color(image: int) -> NDArray[np.uint8]:
    """(3,) the color that painted image i has throughout: never black, and another for each of 200 images."""
    return np.array([image + 40, 250 - image, 20 + image * 37 % 200], dtype=np.uint8)


def painted(count: int, height: int = 40, width: int = 56) -> list[NDArray[np.uint8]]:
    """Images (H, W, 3) of one color each; every third one is smaller."""
    shapes = [(height - 7 * (i % 3 == 2), width - 9 * (i % 3 == 2)) for i in range(count)]
    return [np.broadcast_to(color(i), (*shape, 3)).copy() for i, shape in enumerate(shapes)]


class ListSource:
    """An image source over a list; None stands for an image that cannot be read."""

    name = "list"
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    def __init__(self, images: Sequence[NDArray[Any] | None]) -> None:
        self.images = images
        self.channels = next(image.shape[2] for image in images if image is not None)

    def __len__(self) -> int:
        return len(self.images)

    def image_name(self, index: int) -> str:
        return f"list/{index}"

    def read(self, index: int) -> NDArray[Any]:
        image = self.images[index]
        if image is None:
            raise BadImageError("torn")
        return image


class LabeledSource(ListSource):
    """The same with a class for every image."""

    def __init__(self, images: Sequence[NDArray[Any] | None], classes: int) -> None:
        super().__init__(images)
        self.labels = np.arange(len(images)) % classes
        self.class_names = tuple(f"class {number}" for number in range(classes))


def sizes_of(images: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """(B, 2) width and height, as plans take them."""
    return np.array([(image.shape[1], image.shape[0]) for image in images])


def make_rng(count: int, block: int = 0, *, seed: int = 0, step: int = 0, view: int = 0, first: int = 0) -> ViewRNG:
    """Draws for images `first` to `first + count` of a data set, in blocks of all of them unless told otherwise."""
    images = np.arange(first, first + count)
    return ViewRNG(seed=seed, epoch=0, step=step, view=view, images=images, first=first, block=block or count)


def plan_for(composition: Composition, images: Sequence[NDArray[Any]], **rng: int) -> Plan:
    return composition.plan(sizes_of(images), make_rng(len(images), **rng))


def stack(images: Sequence[NDArray[Any]]) -> Tensor:
    """(B, C, H, W), smaller images padded with a value that none of them should let through."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    stacked = np.full((len(images), height, width, images[0].shape[2]), 255, dtype=images[0].dtype)
    for slot, image in zip(stacked, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def on_host(plan: Plan, images: Sequence[NDArray[Any]]) -> Tensor:
    """Canvases as the host executor renders them, 8-bit ones as floats in [0, 1]."""
    renderer = HostRenderer(plan, images[0].shape[2], images[0].dtype)
    for position, image in enumerate(images):
        renderer.add(position, image)
    pixels = renderer.pixels()
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def on_device(plan: Plan, images: Sequence[NDArray[Any]]) -> Tensor:
    """Canvases as the device executor renders them."""
    return render(plan, stack(images))


EXECUTORS = {"host": on_host, "device": on_device}


def exact_canvas(composition: Composition, images: Sequence[NDArray[Any]], **rng: int) -> Canvas:
    """A finished canvas in float64."""
    plan = plan_for(composition, images, **rng)
    return finish(composition, plan, on_device(plan, [image / 255.0 for image in images]), UNCHANGED)
