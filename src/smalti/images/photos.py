"""The embedded data set `photos`: patches of the photographs that scikit-image and scikit-learn ship.

It needs no download, so that every example and every first run works off line.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from smalti.errors import BadImageError, UserError
from smalti.images.array import ArraySource
from smalti.images.decode import decode
from smalti.images.layout import to_channels

_SKIMAGE, _SKLEARN = ("skimage", "data"), ("sklearn", "datasets", "images")

_PHOTOGRAPHS = {
    "astronaut": (*_SKIMAGE, "astronaut.png"),
    "brick": (*_SKIMAGE, "brick.png"),
    "camera": (*_SKIMAGE, "camera.png"),
    "cat": (*_SKIMAGE, "chelsea.png"),
    "coffee": (*_SKIMAGE, "coffee.png"),
    "coins": (*_SKIMAGE, "coins.png"),
    "grass": (*_SKIMAGE, "grass.png"),
    "gravel": (*_SKIMAGE, "gravel.png"),
    "hubble": (*_SKIMAGE, "hubble_deep_field.jpg"),
    "tissue": (*_SKIMAGE, "ihc.png"),
    "moon": (*_SKIMAGE, "moon.png"),
    "page": (*_SKIMAGE, "page.png"),
    "retina": (*_SKIMAGE, "retina.jpg"),
    "rocket": (*_SKIMAGE, "rocket.jpg"),
    "motorcycle": (*_SKIMAGE, "motorcycle_left.png"),
    "cell": (*_SKIMAGE, "cell.png"),
    "text": (*_SKIMAGE, "text.png"),
    "temple": (*_SKLEARN, "china.jpg"),
    "flower": (*_SKLEARN, "flower.jpg"),
}

TRAIN_SHARE = 0.6
"""Training patches lie left of this share of a photograph's width, test patches right of it."""

_COMMON_WIDTH = 384  # pixels, the narrowest photograph's: wider ones are shrunk, none is enlarged
_SIDES = (64, 112)  # pixels of the shrunk photograph, both included
_SEED = {"train": 20240, "test": 20241}


def photographs() -> dict[str, np.ndarray]:
    """The whole photographs by name, each (H, W, 3) uint8.

    Raises:
        UserError: the installed scikit-image or scikit-learn lacks one of them.
    """
    return {name: _photograph(parts) for name, parts in _PHOTOGRAPHS.items()}


def photos(
    split: Literal["train", "test"] = "train", size: int = 64, per_class_train: int = 120, per_class_test: int = 40
) -> ArraySource:
    """Patches labeled by the photograph they come from: 19 classes, the same patches on every call.

    Training patches lie in the left 60% of each photograph and test patches in the right 40%, so no pixel is in both.

    Args:
        split: which patches.
        size: side of the patches in pixels; they are cut 64 to 112 pixels wide out of photographs shrunk to a
            common width of 384, then resized with antialiasing.
        per_class_train: patches of each photograph for training.
        per_class_test: patches of each photograph for testing.

    Returns:
        Source of (19 * per_class, size, size, 3) uint8, sorted by class.
    """
    count = per_class_train if split == "train" else per_class_test
    generator = np.random.default_rng(_SEED[split])
    patches = [_patches(photograph, split, count, size, generator) for photograph in photographs().values()]
    labels = np.repeat(np.arange(len(_PHOTOGRAPHS)), count)
    return ArraySource(f"photos/{split}", np.concatenate(patches), labels, tuple(_PHOTOGRAPHS))


def patch_boxes(
    height: int, width: int, split: Literal["train", "test"], count: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw square boxes on one split's side of a photograph.

    Args:
        height: of the photograph, pixels, at least 112.
        width: of the photograph, pixels, at least 280, so that the narrower side holds the largest box.
        split: the side.
        count: how many boxes.
        generator: where the randomness comes from.

    Returns:
        (count, 4) int64, xyxy in pixels, right and bottom exclusive.
    """
    border = int(width * TRAIN_SHARE)
    left, right = (0, border) if split == "train" else (border, width)
    side = generator.integers(_SIDES[0], _SIDES[1], size=count, endpoint=True)
    x = generator.integers(left, right - side, endpoint=True)
    y = generator.integers(0, height - side, endpoint=True)
    return np.stack([x, y, x + side, y + side], axis=1)


def cut(photograph: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Cut square boxes out of a photograph and resize them.

    Args:
        photograph: (H, W, C) uint8.
        boxes: (N, 4) integers, xyxy in pixels, right and bottom exclusive.
        size: side of the patches in pixels.

    Returns:
        (N, size, size, C) uint8.
    """
    patches = np.empty((len(boxes), size, size, photograph.shape[2]), dtype=np.uint8)
    for patch, (x0, y0, x1, y1) in zip(patches, boxes, strict=True):
        shrinks = x1 - x0 >= size
        cv2.resize(
            photograph[y0:y1, x0:x1],
            (size, size),
            dst=patch,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
    return patches


def _patches(
    photograph: np.ndarray, split: Literal["train", "test"], count: int, size: int, generator: np.random.Generator
) -> np.ndarray:
    """(count, size, size, 3) patches of one side of a photograph."""
    height = round(photograph.shape[0] * _COMMON_WIDTH / photograph.shape[1])
    shrunk = cv2.resize(photograph, (_COMMON_WIDTH, height), interpolation=cv2.INTER_AREA)
    return cut(shrunk, patch_boxes(height, _COMMON_WIDTH, split, count, generator), size)


def _photograph(parts: tuple[str, ...]) -> np.ndarray:
    package, *inner = parts
    try:
        return to_channels(decode(_package_folder(package).joinpath(*inner).read_bytes()), 3)
    except (OSError, BadImageError) as error:
        raise UserError(
            f"an installed {package} without a readable {'/'.join(inner)}",
            "the photographs that its wheel ships",
            f"reinstall {package}",
        ) from error


def _package_folder(package: str) -> Path:
    """Where a package is installed, found without importing it: scikit-learn alone would take seconds."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations)))
