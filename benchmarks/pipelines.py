"""The pipelines that ours is measured against: MoCo-v2's views with four small crops, one image at a time."""

import random
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from smalti.normalize import IMAGENET_MEAN, IMAGENET_STD

_LARGE, _SMALL = (224, (0.2, 1.0), 2), (112, (0.1, 0.6), 4)  # side in pixels, share of the area, count


class _Blur:
    """MoCo-v2's: Pillow's approximation by box filters."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def pil_pipeline() -> Callable[[bytes], list[Tensor]]:
    """The papers' own: torchvision's first transforms on Pillow images."""

    def view(side: int, scale: tuple[float, float]) -> Callable[[Image.Image], Tensor]:
        return v1.Compose(
            [
                v1.RandomResizedCrop(side, scale=scale),
                v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v1.RandomGrayscale(p=0.2),
                v1.RandomApply([_Blur()], p=0.5),
                v1.RandomHorizontalFlip(),
                v1.ToTensor(),
                v1.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    views = [view(side, scale) for side, scale, count in (_LARGE, _SMALL) for _ in range(count)]

    def pipeline(data: bytes) -> list[Tensor]:
        return _each(views, Image.open(BytesIO(data)).convert("RGB"))

    return pipeline


def tensor_pipeline() -> Callable[[bytes], list[Tensor]]:
    """torchvision's second transforms on 8-bit tensors, blurred as far out as ours."""

    def view(side: int, scale: tuple[float, float]) -> Callable[[Tensor], Tensor]:
        return v2.Compose(
            [
                v2.RandomResizedCrop(side, scale=scale, antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(kernel_size=13, sigma=(0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    views = [view(side, scale) for side, scale, count in (_LARGE, _SMALL) for _ in range(count)]

    def pipeline(data: bytes) -> list[Tensor]:
        return _each(views, decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))

    return pipeline


def _each(views: Iterable[Callable[[Any], Tensor]], image: Any) -> list[Tensor]:
    return [view(image) for view in views]
