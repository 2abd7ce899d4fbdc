"""What several tests share: images with traceable content, plans for them, and functions run in several processes."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import BadImageError
from smalti.images.statistics import PixelStatistics
from smalti.methods.method import DataInfo
from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.crops import Augmentation
from smalti.views.finish import finish
from smalti.views.plan import Composition, Plan
from smalti.views.render_device import render
from smalti.views.render_host import HostRenderer
from smalti.views.rng import ViewRNG

PLAIN = Augmentation(flip=0, jitter=0, gray=0, blur=0)  # nothing but the crop
EIGHT_BIT = PixelStatistics(low=0.0, high=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
# Processes are forked from a fresh one that has imported what takes long, so they start at once and share no state.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "smalti.methods.moco", "smalti.views.loader"])
UNCHANGED = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NO_DATA = DataInfo(UNCHANGED)


def color(image: int) -> NDArray[np.uint8]:
    """(3,) the color that painted image i has throughout: never black, and another for each of 200 images."""
    return np.array([image + 40, 250 - image, 20 + image * 37 % 200], dtype=np.uint8)


def painted(count: int, height: int = 40, width: int = 56) -> list[NDArray[np.uint8]]:
    """Images (H, W, 3) of one color each; every third one is smaller."""
    shapes = [(height - 7 * (i % 3 == 2), width - 9 * (i % 3 == 2)) for i in range(count)]
    return [np.broadcast_to(color(i), (*shape, 3)).copy() for i, shape in enumerate(shapes)]


def textured(count: int, channels: int = 3, side: int = 64, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Images (H, W, C) of sizes near `side` with ramps, edges and a little grain, as photographs have."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        height, width = random.integers(side // 2, side, 2)
        y, x = np.mgrid[:height, :width] / side
        image = np.empty((height, width, channels))
        for channel in range(channels):
            a, b, c = random.uniform(-9, 9, 3)
            image[..., channel] = 128 + 80 * np.sin(a * x + b * y + c) + 30 * np.sign(np.sin(b * x - a * y))
        images.append((image + random.normal(0, 5, image.shape)).clip(0, 255).astype(np.uint8))
    return images


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


def run_in_processes(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 300.0) -> list[Any]:
    """Call `function(*args)` in processes that form a gloo group; what each returned, in order of rank.

    Nothing outlives the timeout, seconds: a group that waits for a lost member is ended and raises.
    """
    with TemporaryDirectory() as folder:
        run = partial(_run, function, args, world_size, Path(folder), timeout)
        processes = [_CONTEXT.Process(target=run, args=(rank,), daemon=True) for rank in range(world_size)]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(timeout)
        finally:
            for process in processes:
                process.kill()
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise RuntimeError(f"processes of {function.__name__} ended with {codes}; their errors stand above")
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world_size)]


def _run(function: Callable[..., Any], args: Any, world_size: int, folder: Path, timeout: float, rank: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo, and layers for the CPU
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout))
    try:
        torch.save(function(*args), folder / str(rank))
    finally:
        dist.destroy_process_group()
