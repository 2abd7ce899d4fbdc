"""From a photograph's file to 2 x 224 + 4 x 112 views on one core: ours, the papers' pipeline, and torchvision's.

Ours ends with 8-bit canvases, because normalizing is left to the training device; the others end with normalized
tensors, as their loaders do.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import tyro

from benchmarks.figures import Figure, show
from benchmarks.measure import figure, interleave, use_one_core
from benchmarks.pipelines import pil_pipeline, tensor_pipeline
from smalti.images.folder import FolderSource
from smalti.images.photos import photographs
from smalti.images.statistics import measure as measure_statistics
from smalti.recipes import get_recipe
from smalti.views.loader import BatchOrder, ViewDataset

RECIPES = ("mosrep_moco", "moco_v2_multicrop")


def measure(data: Path | None = None, quick: bool = False) -> list[Figure]:
    """Time the pipelines.

    Args:
        data: folder of photographs; JPEGs made from the embedded ones unless given.
        quick: a rough look.
    """
    use_one_core()
    with tempfile.TemporaryDirectory() as folder:
        return _measure(FolderSource(data or _embedded(Path(folder))), rounds=4 if quick else 15)


def _measure(source: FolderSource, rounds: int) -> list[Figure]:
    batch = min(32, len(source) // 8 * 8)
    order = BatchOrder(num_images=len(source), batch_size=batch, seed=0)
    statistics = measure_statistics(source, sample=16)
    ours = {name: ViewDataset(source, get_recipe(name).views, order, statistics) for name in RECIPES}
    theirs = {"PIL": pil_pipeline(), "torchvision v2": tensor_pipeline()}

    def apply(function: Callable[[int], object]) -> Callable[[int], object]:
        return lambda step: [function(int(index)) for index in order.indices(step)]

    def through(pipeline: Callable[[bytes], object]) -> Callable[[int], object]:
        return apply(lambda index: pipeline(Path(source.root, source.image_name(index)).read_bytes()))

    seconds = interleave(
        {"decoding": apply(source.read)}
        | {name: dataset.__getitem__ for name, dataset in ours.items()}
        | {name: through(pipeline) for name, pipeline in theirs.items()},
        rounds,
        clock=time.process_time,
    )
    figures = [figure(f"{name}, an image", 1e3 * values / batch, "ms") for name, values in seconds.items()]
    for name in RECIPES:
        figures += [
            figure(f"{name} / decoding", seconds[name] / seconds["decoding"], at_most=1.6),
            figure(f"PIL / {name}", seconds["PIL"] / seconds[name], at_least=6.0),
            figure(f"torchvision v2 / {name}", seconds["torchvision v2"] / seconds[name]),
        ]
    return figures


def _embedded(folder: Path) -> Path:
    """The embedded photographs as JPEGs of quality 90, their longer side 500 pixels."""
    for name, image in photographs().items():
        factor = 500 / max(image.shape[:2])
        shrunk = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}.jpg"), shrunk[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder


if __name__ == "__main__":
    show(tyro.cli(measure))
