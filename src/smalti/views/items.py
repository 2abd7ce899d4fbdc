"""What a PyTorch data set gives, as arrays: images of any usual kind, with or without labels."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from smalti.errors import BadImageError, UserError
from smalti.images.layout import as_image, to_channels

IMAGE_KEYS = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp")
LABEL_KEYS = ("label", "labels", "cls")
_PIL_MODES = {"L", "LA", "RGB", "RGBA", "I;16"}  # those whose pixels NumPy takes as they are


def read_items(items: Sequence[Any], channels: int) -> tuple[list[NDArray[Any]], Tensor | None]:
    """The images and labels of B items of a data set.

    Args:
        items: each an image, (image,), (image, label), or a dictionary with one of `IMAGE_KEYS` and perhaps one of
            `LABEL_KEYS`, whatever else it holds. An image is a PIL image, a NumPy array (H, W) or (H, W, C), or a
            tensor (H, W) or (C, H, W), of uint8, uint16 or floats in [0, 1]. A label is an integer.
        channels: of the images that come out: gray is repeated for 3, color becomes luma for 1, alpha is dropped.

    Returns:
        The images, (H, W, channels), all uint8 or all float32 in [0, 1]; the labels, (B,) int64, or None.

    Raises:
        UserError: an item is of another kind, or some have labels and others have not.
    """
    if not items:
        raise UserError("an empty batch", "one image or more", "check the sampler")
    parts = [_split(item) for item in items]
    images = [_to_array(image, channels) for image, _ in parts]
    if any(image.dtype != np.uint8 for image in images):
        images = [_to_unit(image) for image in images]
    labels = [label for _, label in parts if label is not None]
    if not labels:
        return images, None
    if len(labels) < len(items):
        raise UserError(f"{len(labels)} labels for {len(items)} images", "a label for all or none", "leave them out")
    return images, torch.tensor([_to_label(label) for label in labels])


def read_indices(items: Sequence[Any]) -> Tensor | None:
    """The numbers in the data set of B items, (B,) int64, where all are dictionaries with an integer "index"."""
    found = [item.get("index") for item in items if isinstance(item, Mapping)]
    indices = [int(index) for index in found if isinstance(index, Integral)]
    return torch.tensor(indices) if len(indices) == len(items) else None


def _split(item: Any) -> tuple[Any, Any]:
    """An item's image, and its label or None."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None:
            raise UserError(
                f"an item with {', '.join(map(str, item)) or 'no keys'}",
                f"an image under one of {', '.join(IMAGE_KEYS)}",
                "rename the key in the data set",
            )
        return item[key], next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise UserError(f"an item of {len(item)} parts", "(image,) or (image, label)", "leave out the rest")
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _to_array(image: Any, channels: int) -> NDArray[Any]:
    """(H, W, channels), uint8 or float32 in [0, 1] or uint16, free to be written to."""
    if isinstance(image, Image.Image):
        pixels = np.array(image if image.mode in _PIL_MODES else image.convert("RGB"))
    elif isinstance(image, Tensor):
        tensor = image.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor  # NumPy has no bfloat16
        pixels = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    elif isinstance(image, np.ndarray):
        pixels = image
    else:
        raise UserError(
            f"an image of type {type(image).__name__}",
            "a PIL image, a NumPy array (H, W, C) or a tensor (C, H, W)",
            "decode or convert it in the data set",
        )
    try:
        pixels = np.require(to_channels(as_image(pixels), channels), requirements=["C", "W"])
    except BadImageError as error:
        raise UserError(
            f"an image of shape {tuple(image.size if isinstance(image, Image.Image) else image.shape)}, which {error}",
            f"{channels} channels as Normalize has, arrays (H, W, C) and tensors (C, H, W)",
            "convert it in the data set, or give Normalize the mean and std of other channels",
        ) from None
    if pixels.dtype == np.float32 and not 0 <= pixels.min() <= pixels.max() <= 1:
        raise UserError(
            f"an image with values from {pixels.min():g} to {pixels.max():g}",
            "uint8, uint16, or floats in [0, 1]",
            "leave normalization to Collate(normalize=...), and give whole numbers as uint8",
        )
    return pixels


def _to_unit(image: NDArray[Any]) -> NDArray[Any]:
    """Of any depth -> float32 in [0, 1]."""
    if image.dtype == np.float32:
        return image
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _to_label(label: Any) -> int:
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if not isinstance(label, Integral):
        raise UserError(
            f"a label of type {type(label).__name__}",
            "the number of a class",
            "give an integer, or the image alone: most methods need no labels",
        )
    return int(label)
